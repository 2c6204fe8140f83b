"""Files as recorders, browsers, streams and crashes leave them: every length is that of the sound or film in them.

Each file is made here, and is a kind that was measured or opened wrongly once, or a sibling of one.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from model.media.frames import video_frames
from model.media.source import media_end, read_sound
from tests.clips import Film, Track, make

SECONDS = 3.0
THEORA = Path(__file__).parents[2] / "data" / "theora.ogv"
STEREO = Track(codec="pcm_s16le", format="s16")
MP3 = Track(codec="libmp3lame")
OPUS = Track(48_000, codec="libopus")
VORBIS = Track(codec="vorbis")
OGG_FLAC = Track(codec="flac", format="s16")
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}

Build = Callable[[Path], Path]


@dataclass(frozen=True)
class Kind:
    """`build` writes the file into a folder; its `want` track ends after `seconds`, give or take `within`."""

    name: str
    build: Build
    want: Literal["video", "audio"] = "audio"
    seconds: float = SECONDS
    within: float = 0.002


def plain(name: str, sound: Track | None = None, film: Film | None = None, **options: str) -> Build:
    return lambda folder: make(folder / name, film, sound, options=options)


def theora(folder: Path) -> Path:
    """3 s of Theora and Vorbis: the library has no encoder for Theora."""
    return Path(shutil.copy(THEORA, folder / "a.ogv"))


def adts(name: str = "a.aac", rate: int = 44_100, layout: str = "stereo") -> Build:
    return lambda folder: make(folder / name, sound=Track(rate, layout), format="adts")


def changed(build: Build, change: Callable[[bytes], bytes]) -> Build:
    """The file of `build` with other bytes."""

    def changed_file(folder: Path) -> Path:
        path = build(folder)
        before = path.read_bytes()
        after = change(before)
        assert after != before
        path.write_bytes(after)
        return path

    return changed_file


def cut(build: Build, share: float = 0.6) -> Build:
    return changed(build, lambda data: data[: int(share * len(data))])


def joined(*builds: Build) -> Build:
    """The files one after another under the last one's name."""

    def joined_file(folder: Path) -> Path:
        data = b""
        for build in builds:
            path = build(folder)
            data += path.read_bytes()
        path.write_bytes(data)
        return path

    return joined_file


def before(build: Build, head: bytes) -> Build:
    return changed(build, lambda data: head + data)


def behind(build: Build, tail: bytes) -> Build:
    return changed(build, lambda data: data + tail)


def size_of_data(size: int, riff: int | None = None) -> Callable[[bytes], bytes]:
    """Another size of a WAV's data chunk, and of the file."""

    def change(data: bytes) -> bytes:
        at = data.index(b"data") + 4
        whole = data[:at] + size.to_bytes(4, "little") + data[at + 4 :]
        return whole if riff is None else whole[:4] + riff.to_bytes(4, "little") + whole[8:]

    return change


def durations(value: int, *boxes: bytes) -> Callable[[bytes], bytes]:
    """Another duration in the boxes of an MP4 (version 0)."""
    places = {b"mvhd": 16, b"mdhd": 16, b"tkhd": 20}

    def change(data: bytes) -> bytes:
        patched = bytearray(data)
        for box in boxes:
            for match in re.finditer(box, data):
                at = match.start() + 4 + places[box]
                patched[at : at + 4] = value.to_bytes(4, "big")
        return bytes(patched)

    return change


def without_samples_of_flac(data: bytes) -> bytes:
    """STREAMINFO that does not say how many samples there are (RFC 9639, 8.2)."""
    return data[:21] + bytes([data[21] & 0xF0]) + bytes(4) + data[26:]


def id3(size: int) -> bytes:
    return b"ID3\x04\0\0" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0)) + bytes(range(256)) * (size // 256)


APE = b"APETAGEX" + b"\xd0\x07\0\0\x20\0\0\0" + bytes(4) + b"\0\0\0\xa0" + bytes(8)
LYRICS = b"LYRICSBEGININD0000200000020LYRICS200TAG" + bytes(125)
NOISE = np.random.default_rng(7).integers(1, 255, 3000, np.uint8).tobytes()
FILM = Film(gop=15)
LIVE = plain("a.webm", OPUS, Film(codec="libvpx", options=(("deadline", "realtime"), ("b", "200k"))), live="1")
ANYWHERE = {"mp3": plain("a.mp3", MP3), "aac": adts(), "flac": plain("a.flac", OGG_FLAC), "ogg": plain("a.ogg", VORBIS)}

KINDS = [
    # What players cut away at the beginning and end counts as nothing.
    Kind("gapless mp3", plain("a.mp3", MP3)),
    Kind("gapless mp3 at 8 kHz", plain("a.mp3", Track(8_000, "mono", "libmp3lame"))),
    Kind("mp3 with tags behind", behind(plain("a.mp3", MP3), APE + LYRICS)),
    Kind("mp3 with noise behind", behind(plain("a.mp3", MP3), NOISE), within=0.03),
    Kind("opus", plain("a.opus", OPUS)),
    Kind("opus in webm", plain("a.webm", OPUS)),
    Kind("opus in mkv", plain("a.mkv", OPUS)),
    # Lengths that are wrong or missing.
    Kind("wav from a pipe", changed(plain("a.wav", STEREO), size_of_data(0xFFFFFFFF, 0xFFFFFFFF))),
    Kind("wav of a crashed recorder", changed(plain("a.wav", STEREO), size_of_data(0, 0))),
    Kind("wav that promises more", changed(plain("a.wav", STEREO), size_of_data(0x7FFFFFFF))),
    Kind("cut wav", cut(plain("a.wav", STEREO)), seconds=1.8),
    Kind("cut adpcm", cut(plain("a.wav", Track(codec="adpcm_ima_wav", format="s16"))), seconds=1.8, within=0.03),
    Kind("cut aiff", cut(plain("a.aiff", Track(codec="pcm_s16be", format="s16"))), seconds=1.8),
    Kind("rf64", plain("a.wav", STEREO, rf64="always")),
    Kind("flac without a length", changed(plain("a.flac", OGG_FLAC), without_samples_of_flac)),
    Kind("cut flac", cut(plain("a.flac", OGG_FLAC)), seconds=1.86, within=0.2),
    Kind("cut mp3", cut(plain("a.mp3", MP3)), seconds=1.8, within=0.05),
    Kind("cut adts", cut(adts()), seconds=1.8, within=0.05),
    Kind("cut opus", cut(plain("a.opus", OPUS), 0.9), seconds=2.5, within=0.6),
    Kind("live webm", LIVE, "video", within=0.01),
    Kind("live webm, its sound", LIVE, within=0.01),
    Kind("cut live webm", cut(LIVE), seconds=1.8, within=0.3),
    Kind("cut mkv", cut(plain("a.mkv", OGG_FLAC, FILM), 0.8), "video", seconds=2.4, within=0.4),
    Kind("cut ts", cut(plain("a.ts", Track(48_000), FILM)), "video", seconds=1.8, within=0.2),
    Kind("cut avi", cut(plain("a.avi", MP3, Film(codec="mpeg4"))), "video", seconds=1.8, within=0.2),
    Kind("avi of h264", plain("a.avi", MP3, FILM), "video", seconds=3 + 1 / 30),
    Kind("mp4 that does not say its length", changed(plain("a.mp4", Track(), FILM), durations(0, b"mvhd")), "video"),
    Kind("mp4 of endless length", changed(plain("a.mp4", Track(), FILM), durations(2**32 - 1, b"mvhd")), "video"),
    Kind(
        "mp4 without any length", changed(plain("a.mp4", None, FILM), durations(0, b"mvhd", b"mdhd", b"tkhd")), "video"
    ),
    Kind(
        "m4a without any length", changed(plain("a.m4a", Track()), durations(0, b"mvhd", b"mdhd", b"tkhd")), within=0.02
    ),
    Kind("fragments", plain("a.mp4", Track(), FILM, **FRAGMENTS), within=0.05),
    Kind(
        "fragments that lie",
        changed(plain("a.mp4", None, FILM, **FRAGMENTS), durations(9**9, b"mvhd", b"mdhd")),
        "video",
    ),
    Kind("fragments, cut", cut(plain("a.mp4", None, FILM, **FRAGMENTS)), "video", seconds=1.8, within=0.5),
    Kind(
        "fragments of sound, cut",
        cut(plain("a.mp4", Track(), None, **FRAGMENTS, frag_duration="300000")),
        seconds=1.8,
        within=0.1,
    ),
    # Joined by cat, and chained.
    Kind("mp3 joined", joined(plain("0.mp3", MP3), plain("1.mp3", MP3)), seconds=6.0, within=0.06),
    Kind(
        "mp3 joined, another rate",
        joined(plain("0.mp3", Track(22_050, "mono", "libmp3lame")), plain("1.mp3", MP3)),
        seconds=6.05,
        within=0.06,
    ),
    Kind("adts joined, another rate", joined(adts("0.aac", 22_050, "mono"), adts("1.aac")), seconds=6.13, within=0.05),
    Kind("adts joined, fewer channels", joined(adts("0.aac"), adts("1.aac", layout="mono")), seconds=6.09, within=0.03),
    Kind(
        "ts joined",
        joined(plain("0.ts", Track(48_000), FILM), plain("1.ts", Track(48_000), FILM)),
        "video",
        seconds=6.0,
        within=0.05,
    ),
    Kind(
        "vorbis chained, another rate",
        joined(plain("0.ogg", VORBIS), plain("1.ogg", Track(22_050, codec="vorbis"))),
        seconds=6.0,
        within=0.005,
    ),
    Kind(
        "opus chained, fewer channels",
        joined(plain("0.opus", OPUS), plain("1.opus", Track(48_000, "mono", "libopus"))),
        seconds=6.0,
    ),
    Kind("flac chained", joined(plain("0.ogg", OGG_FLAC), plain("1.ogg", OGG_FLAC)), seconds=6.0),
    Kind("vorbis and opus chained", joined(plain("0.ogg", VORBIS), plain("1.ogg", OPUS)), seconds=6.0),
    Kind("theora chained", joined(theora, theora), "video", seconds=6.0),
    Kind("theora chained, its sound", joined(theora, theora), seconds=6.0),
    Kind("a film, then sound alone", joined(theora, plain("1.ogg", VORBIS)), "video"),
    Kind("a film, then sound alone, its sound", joined(theora, plain("1.ogg", VORBIS)), seconds=6.0),
    Kind("sound alone, then a film", joined(plain("0.ogg", VORBIS), theora), "video", seconds=6.0),
    Kind("chained behind zeros", before(joined(plain("0.opus", OPUS), plain("1.opus", OPUS)), bytes(500)), seconds=6.0),
    Kind("chained behind a tag", before(joined(plain("0.opus", OPUS), plain("1.opus", OPUS)), id3(5120)), seconds=6.0),
    Kind("chained, then noise", behind(joined(plain("0.opus", OPUS), plain("1.opus", OPUS)), NOISE), seconds=6.0),
    Kind(
        "chained with noise between", joined(behind(plain("0.opus", OPUS), NOISE), plain("1.opus", OPUS)), seconds=6.0
    ),
    Kind(
        "chained, the first cut off",
        joined(cut(plain("0.ogg", VORBIS), 0.9), plain("1.ogg", OPUS)),
        seconds=5.5,
        within=0.5,
    ),
    # What may precede the data.
    *(Kind(f"{name} behind noise", before(build, NOISE), within=0.06) for name, build in ANYWHERE.items()),
    *(Kind(f"{name} behind zeros", before(build, bytes(70_000)), within=0.06) for name, build in ANYWHERE.items()),
    *(
        Kind(f"{name} behind 10 MB of tag", before(build, id3(10_000_128)), within=0.06)
        for name, build in ANYWHERE.items()
    ),
    Kind("wav behind zeros", before(plain("a.wav", STEREO), bytes(1000))),
    Kind("wav behind a tag", before(plain("a.wav", STEREO), id3(10_000_128))),
    Kind("mkv behind a tag", before(plain("a.mkv", OPUS), id3(10_000_128))),
    Kind("ts behind noise", before(plain("a.ts", Track(48_000), FILM), NOISE), "video", within=0.05),
    Kind("ts behind a tag", before(plain("a.ts", Track(48_000), FILM), id3(10_000_128)), "video", within=0.05),
    Kind("ts, then noise", behind(plain("a.ts", Track(48_000), FILM), NOISE), within=0.05),
    # Time stamps that a container rounds.
    Kind("ac3 in mkv", plain("a.mkv", Track(48_000, codec="ac3")), within=0.035),
    Kind("vorbis in webm", plain("a.webm", VORBIS), within=0.005),
    Kind("aac in mkv", plain("a.mkv", Track()), within=0.05),
]


@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_the_length_is_known_and_all_of_it_is_read(tmp_path: Path, kind: Kind) -> None:
    path = kind.build(tmp_path)

    end = media_end(path, kind.want)

    assert float(end) == pytest.approx(kind.seconds, abs=kind.within)
    if kind.want == "audio":
        sound = read_sound(path, Fraction(0), Fraction(10))
        assert len(sound.samples) / sound.sample_rate == pytest.approx(float(end), abs=0.03)
        assert np.abs(sound.to_float()[:, -sound.sample_rate // 5 : -sound.sample_rate // 10]).max() > 0.1
    else:
        last = list(video_frames(path, 0))[-1]
        assert float(last.time + last.duration) == pytest.approx(float(end), abs=0.001)
