"""How containers say that a track is shown, read from their boxes and elements."""

from __future__ import annotations

import os
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from model.media.display import Display, display_of, matroska_tracks
from model.media.mux import mux_v2a
from model.media.source import open_media
from tests.clips import Film, Track, make
from tests.hostile.boxes import box
from tests.model.media.sample_entry import clap, dolby_vision, extend_sample_entry


def element(kind: int, *content: bytes) -> bytes:
    """An EBML element (RFC 8794) with a size of two bytes."""
    data = b"".join(content)
    return kind.to_bytes((kind.bit_length() + 7) // 8, "big") + (len(data) | 0x4000).to_bytes(2, "big") + data


def display(path: Path) -> Display:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with open_media(path) as container:
            return display_of(descriptor, container, container.streams.video[0])
    finally:
        os.close(descriptor)


def test_matroska_tells_crop_and_dolby_vision_of_each_video_track(tmp_path: Path) -> None:
    crops = element(0x54CC, b"\x10"), element(0x54BB, b"\x02"), element(0x54DD, b"\x01\x00"), element(0x54AA, b"\x08")
    record = bytes([1, 0, 5 << 1, 0b1101, 0, 0, 0, 0]) + bytes(16)
    hdr10_plus = element(0x41E4, element(0x41E7, b"\x04"), element(0x41ED, bytes(24)))
    addition = element(0x41E4, element(0x41E7, b"dvcC"), element(0x41ED, record))
    tracks = element(
        0x1654AE6B,
        element(0xAE, element(0xE1, element(0x9F, b"\x02"))),
        element(0xAE, element(0xE0, *crops)),
        element(0xAE, hdr10_plus, addition, element(0xE0, element(0xB0, b"\x40"))),
    )
    path = tmp_path / "tracks.mkv"
    path.write_bytes(element(0x1A45DFA3, b"") + b"\x18\x53\x80\x67\xff" + tracks)
    descriptor = os.open(path, os.O_RDONLY)

    assert matroska_tracks(descriptor) == [((16, 2, 256, 8), None), ((0, 0, 0, 0), 5)]
    os.close(descriptor)


@pytest.mark.parametrize(
    ("aperture", "crop"),
    [
        (clap(64, 48), (0, 0, 0, 0)),
        (clap(40, 32), (12, 8, 12, 8)),
        (clap(40, 32, across=12, down=-8), (24, 0, 0, 16)),
        (clap(41, 33), (12, 8, 12, 8)),
        (clap(80, 48), (0, 0, 0, 0)),
        (clap(40, 32, across=13), (0, 0, 0, 0)),
        (clap(0, 32), (0, 0, 0, 0)),
        (box(b"clap", struct.pack(">8i", 40, 0, 32, 1, 0, 1, 0, 1)), (0, 0, 0, 0)),
        (box(b"clap", b"\0\0\0\x28"), (0, 0, 0, 0)),
        (box(b"clap", struct.pack(">8i", 80, 2, 96, 3, 24, 2, 0, 1)), (24, 8, 0, 8)),
    ],
)
def test_a_clean_aperture_is_a_crop_if_it_lies_in_the_picture(
    tmp_path: Path, aperture: bytes, crop: tuple[int, int, int, int]
) -> None:
    assert display(extend_sample_entry(make(tmp_path / "a.mp4", Film(frames=4)), aperture)).crop == crop


@pytest.mark.parametrize(("width", "height"), [(-64 << 16, 48 << 16), (1, 2**31 - 1), (2**31 - 1, 1), (0, 0)])
def test_a_display_size_that_makes_no_sense_is_not_believed(tmp_path: Path, width: int, height: int) -> None:
    source = extend_sample_entry(make(tmp_path / "a.mp4", Film(frames=60)), clap(40, 32))
    data = bytearray(source.read_bytes())
    struct.pack_into(">2i", data, data.index(b"tkhd") + 80, width, height)
    source.write_bytes(data)

    assert display(source).aspect == 1
    mux_v2a(source, 0.0, 1.6, np.zeros((1, 25_600), np.float32), 16_000, tmp_path / "result.mp4", "")


def test_quicktime_files_have_the_boxes_too(tmp_path: Path) -> None:
    source = make(tmp_path / "a.mov", Film(frames=4, aspect=Fraction(2)), Track(seconds=0.5))

    shown = display(extend_sample_entry(source, clap(40, 32), dolby_vision(8)))

    assert (shown.crop, shown.aspect, shown.dolby_vision) == ((12, 8, 12, 8), 2, 8)
    assert shown.size(64, 48) == (80, 32)


def test_a_copied_stream_keeps_the_boxes_of_its_looks(tmp_path: Path) -> None:
    """Colours, mastering display, light level, and the configuration of Dolby Vision."""
    mastering = struct.pack(">8H2I", 13250, 34500, 7500, 3000, 34000, 16000, 15635, 16450, 10_000_000, 50)
    boxes = (
        box(b"colr", b"nclx", struct.pack(">3HB", 9, 16, 9, 0)),
        box(b"mdcv", mastering),
        box(b"clli", struct.pack(">2H", 1000, 400)),
    )
    source = extend_sample_entry(make(tmp_path / "a.mp4", Film(frames=60)), *boxes, dolby_vision(8))

    how = mux_v2a(source, 0.0, 1.6, np.zeros((1, 25_600), np.float32), 16_000, tmp_path / "result.mp4", "")

    assert how == "copied"
    data = (tmp_path / "result.mp4").read_bytes()
    assert all(one in data for one in boxes)
    assert display(tmp_path / "result.mp4").dolby_vision == 8
