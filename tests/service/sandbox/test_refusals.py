"""What cannot be used is refused on submission, in words that say what it is: encrypted, of an unsupported codec …"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Literal

import pytest

from service.sandbox.probe import ProbeError, ProbeLimits, Prober
from tests.clips import Film, Track, make

LIMITS = ProbeLimits()
ENCRYPTED = "the file is encrypted"
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
CENC = {
    "encryption_scheme": "cenc-aes-ctr",
    "encryption_key": "0123456789abcdef0123456789abcdef",
    "encryption_kid": "00112233445566778899aabbccddeeff",
}
VP8 = Film(codec="libvpx", options=(("deadline", "realtime"), ("b", "200k")))
MP3, PCM = Track(codec="libmp3lame"), Track(codec="pcm_s16le", format="s16")


@pytest.fixture(scope="module")
def prober() -> Iterator[Prober]:
    with Prober() as one:
        yield one


def refusal(prober: Prober, path: Path, want: Literal["video", "audio"], start: float = 0.0) -> ProbeError:
    """How the file is refused, in words that name neither the library nor the reason twice."""
    with pytest.raises(ProbeError) as refused:
        prober.probe(path, want, LIMITS, start)
    error = refused.value
    for words in ("Invalid data", "patches", "none", "FFmpeg"):
        assert words not in error.message
    assert error.allowed not in error.message
    assert error.message not in error.allowed
    return error


def changed(path: Path, *changes: tuple[bytes, bytes]) -> Path:
    data = path.read_bytes()
    for old, new in changes:
        assert old in data
        data = data.replace(old, new)
    path.write_bytes(data)
    return path


def encrypted_webm(path: Path) -> Path:
    """A recording whose tracks have content encryption (RFC 9559, ContentEncodings)."""

    def element(name: str, body: bytes) -> bytes:
        return bytes.fromhex(name) + bytes([0x80 | len(body)]) + body

    key = element("47E1", b"\x05") + element("47E2", bytes(16)) + element("47E7", element("47E8", b"\x01"))
    encoding = element("5031", b"\0") + element("5032", b"\1") + element("5033", b"\1") + element("5035", key)
    added = element("6D80", element("6240", encoding))
    data = make(path, VP8, Track(48_000, codec="libopus"), options={"live": "1"}).read_bytes()
    tracks = data.rindex(bytes.fromhex("1654AE6B"), 0, data.index(bytes.fromhex("1F43B675"))) + 4
    size, head = length_at(data, tracks)
    body, rest = data[tracks + head : tracks + head + size], data[tracks + head + size :]
    entries, at = b"", 0
    while at < len(body):
        assert body[at] == 0xAE
        size, head = length_at(body, at + 1)
        entry = body[at + 1 + head : at + 1 + head + size] + added
        entries += b"\xae\x01" + len(entry).to_bytes(7, "big") + entry
        at += 1 + head + size
    path.write_bytes(data[:tracks] + b"\x01" + len(entries).to_bytes(7, "big") + entries + rest)
    return path


def length_at(data: bytes, at: int) -> tuple[int, int]:
    """The length of an EBML element at `at`, and the bytes that tell it (RFC 8794, 6.4)."""
    count = 9 - data[at].bit_length()
    return int.from_bytes(data[at : at + count], "big") & ((1 << 7 * count) - 1), count


def scrambled_ts(path: Path) -> Path:
    """A transport stream whose packets of video and audio are scrambled (ISO/IEC 13818-1, 2.4.3.3)."""
    data = bytearray(make(path, Film(), Track(48_000)).read_bytes())
    for at in range(0, len(data), 188):
        if (data[at + 1] & 0x1F) << 8 | data[at + 2] >= 256 and (data[at + 1] & 0x1F) < 0x10:
            data[at + 3] |= 0x80
            header = at + 4 + (1 + data[at + 4] if data[at + 3] & 0x20 else 0)
            data[header : at + 188] = bytes(255 - byte for byte in data[header : at + 188])
    path.write_bytes(data)
    return path


LOCKED: dict[str, tuple[Callable[[Path], Path], tuple[Literal["video", "audio"], ...]]] = {
    "cenc": (lambda folder: make(folder / "a.mp4", Film(), Track(), options=CENC), ("video", "audio")),
    "cenc m4a": (lambda folder: make(folder / "a.m4a", None, Track(), format="mp4", options=CENC), ("audio",)),
    "cenc in fragments": (
        lambda folder: make(folder / "a.mp4", Film(), Track(), options=CENC | FRAGMENTS),
        ("video", "audio"),
    ),
    "itunes song": (lambda folder: changed(make(folder / "a.m4a", None, Track()), (b"mp4a", b"drms")), ("audio",)),
    "itunes film": (lambda folder: changed(make(folder / "a.mov", Film()), (b"avc1", b"drmi")), ("video",)),
    "no scheme": (lambda folder: changed(make(folder / "a.mp4", Film()), (b"avc1", b"encv")), ("video",)),
    "webm": (lambda folder: encrypted_webm(folder / "a.webm"), ("video", "audio")),
    "ts": (lambda folder: scrambled_ts(folder / "a.ts"), ("video", "audio")),
}


@pytest.mark.parametrize("name", LOCKED)
def test_encrypted_files_are_called_so(prober: Prober, tmp_path: Path, name: str) -> None:
    build, wants = LOCKED[name]
    path = build(tmp_path)

    for want in wants:
        error = refusal(prober, path, want)
        assert (error.code, error.field) == ("undecodable", "file")
        assert error.message.startswith(ENCRYPTED)


def test_a_clear_track_beside_an_encrypted_one_is_used(prober: Prober, tmp_path: Path) -> None:
    path = changed(make(tmp_path / "a.mp4", Film(), Track()), (b"avc1", b"encv"))

    assert prober.probe(path, "audio", LIMITS).duration == pytest.approx(3.0, abs=0.05)
    assert refusal(prober, path, "video").message.startswith(ENCRYPTED)


def unknown_stream_type(path: Path) -> Path:
    """A transport stream whose program map says AVS3 instead of H.264."""
    make(path, Film())
    data = bytearray(path.read_bytes())
    for at in range(0, len(data), 188):
        if data[at + 1] & 0x5F == 0x50 and data[at + 2] == 0:  # the program map, at its beginning
            section = at + 5 + (1 + data[at + 4] if data[at + 3] & 0x20 else 0)
            length = 3 + ((data[section + 1] & 0xF) << 8 | data[section + 2])
            first = section + 12 + ((data[section + 10] & 0xF) << 8 | data[section + 11])
            assert data[first] == 0x1B
            data[first] = 0xD4
            end = section + length - 4
            data[end : end + 4] = crc(bytes(data[section:end])).to_bytes(4, "big")
    path.write_bytes(data)
    return path


def crc(data: bytes) -> int:
    """CRC-32 of a section (ISO/IEC 13818-1, annex A)."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value >> 31 else 0)) & 0xFFFFFFFF
    return value


CODECS: dict[str, tuple[Callable[[Path], Path], Literal["video", "audio"], str]] = {
    "mp4": (lambda folder: changed(make(folder / "a.mp4", Film()), (b"avc1", b"zzz9")), "video", "zzz9"),
    "mp4 known": (lambda folder: changed(make(folder / "a.mp4", Film()), (b"avc1", b"evc1")), "video", "evc"),
    "mkv": (
        lambda folder: changed(make(folder / "a.mkv", Film()), (b"V_MPEG4/ISO/AVC", b"V_MPEG4/ISO/XYZ")),
        "video",
        "V_MPEG4/ISO/XYZ",
    ),
    "webm": (
        lambda folder: changed(make(folder / "a.webm", None, Track(48_000, codec="libopus")), (b"A_OPUS", b"A_ZZZZ")),
        "audio",
        "A_ZZZZ",
    ),
    "avi": (
        lambda folder: changed(make(folder / "a.avi", Film(codec="mpeg4")), (b"FMP4", b"XYZ9")),
        "video",
        "XYZ9",
    ),
    "avi sound": (
        lambda folder: changed(make(folder / "a.avi", VP8, MP3), (b"\x55\0\2\0\x44\xac", b"\x77\x77\2\0\x44\xac")),
        "audio",
        "0x7777",
    ),
    "wav": (
        lambda folder: changed(make(folder / "a.wav", None, PCM), (b"\x01\0\2\0\x44\xac", b"\x77\x77\2\0\x44\xac")),
        "audio",
        "0x7777",
    ),
    "ts": (lambda folder: unknown_stream_type(folder / "a.ts"), "video", "avs3"),
}


@pytest.mark.parametrize("name", CODECS)
def test_an_unsupported_codec_is_named(prober: Prober, tmp_path: Path, name: str) -> None:
    build, want, codec = CODECS[name]

    error = refusal(prober, build(tmp_path), want)

    assert error.message == f"the codec of the file's {want} track, {codec}, is not supported"
    assert error.got == f"codec {codec}"


def test_a_worker_names_an_unsupported_codec_too(tmp_path: Path) -> None:
    from model.media.frames import video_frames
    from model.media.opening import MediaError

    path = changed(make(tmp_path / "a.mkv", Film()), (b"V_MPEG4/ISO/AVC", b"V_MPEG4/ISO/XYZ"))

    with pytest.raises(MediaError, match="V_MPEG4/ISO/XYZ, is not supported"):
        next(video_frames(path, 0))


def test_a_later_part_of_a_recording_is_called_so(prober: Prober, tmp_path: Path) -> None:
    data = make(tmp_path / "a.webm", VP8, options={"live": "1", "cluster_time_limit": "500"}).read_bytes()
    second = data.index(bytes.fromhex("1F43B675"), data.index(bytes.fromhex("1F43B675")) + 4)
    (tmp_path / "part").write_bytes(data[second:])

    error = refusal(prober, tmp_path / "part", "video")

    assert error.status == 415
    assert "without the header that its first part has" in error.message


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.flv", "Flash video"),
        ("a.mpg", "MPEG program stream"),
        ("a.asf", "Windows Media"),
        ("a.caf", "Core Audio"),
        ("a.w64", "Wave64"),
    ],
)
def test_a_format_that_is_not_opened_is_named(prober: Prober, tmp_path: Path, name: str, words: str) -> None:
    film = {"a.flv": "flv", "a.mpg": "mpeg2video", "a.asf": "wmv2"}.get(name)
    sound = Track(codec="pcm_s16be" if name == "a.caf" else "pcm_s16le", format="s16")
    if film is None:
        path = make(tmp_path / name, None, sound)
    else:
        path = make(tmp_path / name, Film(fps=Fraction(25), codec=film))

    error = refusal(prober, path, "audio" if film is None else "video")

    assert (error.status, error.code) == (415, "unsupported_media")
    assert words in error.message
    assert "MP4" in error.allowed


def test_a_segment_without_its_initialization_is_called_so(prober: Prober, tmp_path: Path) -> None:
    data = make(tmp_path / "a.mp4", Film(), options=FRAGMENTS).read_bytes()
    (tmp_path / "segment.m4s").write_bytes(data[data.index(b"moof") - 4 :])

    assert "without the initialization segment" in refusal(prober, tmp_path / "segment.m4s", "video").message


@pytest.mark.parametrize("name", ["a.mp3", "a.aac", "a.flac", "a.ts", "a.webm", "a.avi", "a.wav"])
def test_a_start_beyond_what_is_left_names_the_limit(prober: Prober, tmp_path: Path, name: str) -> None:
    """Of a file that was cut off, whose header may promise more."""
    codec = {"mp3": "libmp3lame", "aac": "aac", "ts": "aac", "webm": "libopus", "avi": "libmp3lame"}
    kind = name.removeprefix("a.")
    track = Track(48_000, codec=codec.get(kind, "flac" if kind == "flac" else "pcm_s16le"))
    if kind in ("flac", "wav"):
        track = Track(48_000, codec=track.codec, format="s16")
    path = make(tmp_path / name, Film() if kind in ("ts", "avi") else None, track, format={"aac": "adts"}.get(kind))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    found = prober.probe(path, "audio", LIMITS)

    error = refusal(prober, path, "audio", 2.8)

    assert (error.code, error.field) == ("too_short", "start")
    last = float(error.allowed.removeprefix("at most ").removesuffix(" s"))
    assert last == pytest.approx(found.duration - LIMITS.min_seconds, abs=0.001)
    assert prober.probe(path, "audio", LIMITS, last).duration == found.duration
    refusal(prober, path, "audio", last + 0.002)


def test_millions_of_packets_are_refused_within_the_processing_time(prober: Prober, tmp_path: Path) -> None:
    """17 MB of the smallest frames that ADTS knows: headers alone."""
    header = bytes.fromhex("fff15080") + bytes([0, 7 << 5 | 0x1F, 0xFC])
    path = tmp_path / "many.aac"
    path.write_bytes(header * 2_500_000)
    before = os.times()

    error = refusal(prober, path, "audio")

    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    assert spent < LIMITS.cpu_seconds + 3.0  # loading the decoder counts here too
    assert error.code == "undecodable"
