"""The parsers of the first bytes take any bytes: they end soon, and raise nothing but MediaError."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import av
import pytest

from model.media import codec_names, containers, frame_headers, mp4_boxes, ogg_links, transport_stream
from model.media.display import display_of
from model.media.opening import MediaError, links, open_descriptor
from tests.clips import Film, Track, make

ROUNDS = int(os.environ.get("DUET_FUZZ_ROUNDS", "60"))
"""Damaged versions of each file."""

FILES: dict[str, tuple[Film | None, Track | None, str | None]] = {
    "a.mp4": (Film(frames=20), Track(seconds=0.7), None),
    "a.mkv": (Film(frames=20), Track(seconds=0.7), None),
    "a.avi": (Film(frames=20, codec="mpeg4"), Track(seconds=0.7, codec="libmp3lame"), None),
    "a.ts": (Film(frames=20), Track(48_000, seconds=0.7), None),
    "a.mp3": (None, Track(codec="libmp3lame", seconds=0.7), None),
    "a.aac": (None, Track(seconds=0.7), "adts"),
    "a.flac": (None, Track(codec="flac", format="s16", seconds=0.7), None),
    "a.ogg": (None, Track(codec="flac", format="s16", seconds=0.7), None),
    "a.opus": (None, Track(48_000, codec="libopus", seconds=0.7), None),
    "a.wav": (None, Track(codec="pcm_s16le", format="s16", seconds=0.7), None),
}


@contextmanager
def in_memory(data: bytes) -> Iterator[int]:
    descriptor = os.memfd_create("damaged")
    try:
        os.write(descriptor, data)
        yield descriptor
    finally:
        os.close(descriptor)


def damaged(data: bytes, dice: random.Random) -> bytes:
    """`data` with bytes flipped, mostly in its headers, cut, repeated, or behind other bytes."""
    changed = bytearray(data)
    for _ in range(dice.choice((1, 3, 20, 200))):
        at = int(len(changed) * dice.random() ** dice.choice((1, 4)))
        changed[min(at, len(changed) - 1)] = dice.choice((0, 0xFF, 0x7F, 0x80, dice.randrange(256)))
    kind = dice.randrange(6)
    if kind == 0:
        return bytes(changed[: dice.randrange(1, len(changed))])
    if kind == 1:
        return bytes(changed[dice.randrange(len(changed)) :]) or b"\0"
    if kind == 2:
        return bytes(changed) + bytes(changed)
    if kind == 3:
        return dice.randbytes(dice.randrange(1, 3000)) + bytes(changed)
    if kind == 4:
        return b"ID3\4\0\0" + dice.randbytes(4) + bytes(changed)
    return bytes(changed)


def parse(data: bytes) -> None:
    """Everything that reads bytes before or beside the decoder."""
    with in_memory(data) as descriptor:
        containers.identify(descriptor)
        containers.why_unknown(descriptor)
        links(descriptor)
        parts = ogg_links.find(descriptor)
        assert all(0 <= begin <= end <= len(data) for begin, end in parts)
        ogg_links.find_first(data[:16_384])
        list(mp4_boxes.walk(descriptor))
        codec_names.has_encrypted_entry(descriptor)
        transport_stream.scrambled_pids(descriptor)
    frame_headers.find(data[:16_384])
    for at in range(0, min(len(data), 2000), 7):
        assert frame_headers.seconds(data[at : at + 20]) >= 0


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_are_parsed_or_refused(tmp_path: Path, name: str) -> None:
    film, sound, format = FILES[name]
    data = make(tmp_path / name, film, sound, format).read_bytes()
    dice = random.Random(name)

    for _ in range(ROUNDS):
        bad = damaged(data, dice)
        before = time.process_time()
        parse(bad)
        with in_memory(bad) as descriptor:
            try:
                container = open_descriptor(descriptor, 10**7, 1)
            except MediaError:
                continue
            with container:
                names = codec_names.find(container, descriptor)
                assert all(text and text.isprintable() for text in names.values())
                for track in container.streams.video:
                    if track.codec_context is not None:
                        display_of(descriptor, container, track)
        assert time.process_time() - before < 5


@pytest.mark.parametrize(
    "data",
    [
        b"OggS\0" * 40_000,
        b"OggS\0\2" + bytes(20) + b"\0" * 10,
        b"\0\0\0\x08free" * 200_000,
        b"\0\0\0\1mdat" + b"\xff" * 8,
        b"\xff" * 100_000,
        b"\xff\xfb" * 50_000,
        b"\xff\xf8" * 50_000,
        b"G" * 100_000,
        b"ID3\4\0\0\0\0\0\0" * 100_000,
        b"\x1a\x45\xdf\xa3" * 30_000,
        bytes(3_000_000),
    ],
    ids=lambda data: repr(data[:8]),
)
def test_repeated_signatures_end_soon(data: bytes) -> None:
    before = time.process_time()

    parse(data)

    assert time.process_time() - before < 5


@pytest.mark.parametrize("text", ["h", "hello, this is a text " * 1000])
def test_a_text_in_utf_16_is_no_sound(text: str) -> None:
    with in_memory(b"\xff\xfe" + text.encode("utf-16-le")) as descriptor:
        assert containers.identify(descriptor) is None


@pytest.mark.parametrize("frames", [1, 2, 3, 10])
def test_a_sound_of_few_frames_is_known(tmp_path: Path, frames: int) -> None:
    path = make(tmp_path / "a.mp2", sound=Track(codec="mp2", format="s16", seconds=1))
    with av.open(path) as container:
        data = b"".join(bytes(packet) for packet in islice(container.demux(), frames))
    with in_memory(data) as descriptor:
        assert containers.identify(descriptor) == containers.Signature("mp3")
