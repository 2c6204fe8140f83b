"""Good files of unusual kinds, which must work or be refused for a reason, and other containers whose headers lie."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from tests.clips import Film, Track, make
from tests.hostile.case import ACCEPTED, Case, only
from tests.hostile.sources import SMALL, VP8, Sources

HUGE = 2**32 - 1
WORKS = only(ACCEPTED)


def encoded(folder: Path) -> Iterator[Case]:
    """What real encoders write."""
    for name, film in _films().items():
        path = make(folder / f"{name.replace(' ', '-')}", film, format="mp4")
        yield Case("film", name, path.read_bytes(), answers=WORKS)
    for name, (ending, sound) in _sounds().items():
        path = make(folder / f"{name.replace(' ', '-')}.{ending}", sound=sound)
        yield Case("sound", name, path.read_bytes(), "a2v", f"sound.{ending}", WORKS)
    film, sound = make(folder / "film.mp4", SMALL).read_bytes(), _wave(bytes(64_000))
    yield Case("film", "wanted for its sound", film, "a2v", answers=only("no_audio_track"))
    yield Case("sound", "wanted for its pictures", sound, "v2a", answers=only("no_video_track"))
    still = make(folder / "still.mp4", Film(frames=1)).read_bytes()
    yield Case("film", "one picture", still, answers=only("too_short"))
    live = make(folder / "live.webm", Film(frames=24, fps=Fraction(10), codec="libvpx", options=VP8),
                options={"live": "1"})  # fmt: skip
    yield Case("film", "without a length", live.read_bytes(), filename="live.webm", answers=WORKS)
    long = make(folder / "long.mp4", Film(frames=3, times=(0, 600, 1200), grid=Fraction(1)))
    yield Case("film", "twenty minutes", long.read_bytes(), answers=only("too_long"))


def _films() -> dict[str, Film]:
    tenth = Fraction(10)
    films = {f"{w}×{h}": Film(24, tenth, w, h, "mjpeg", "yuvj444p") for w, h in ((1, 1), (33, 17), (1, 64), (641, 3))}
    films |= {f"turned by {angle}": Film(24, tenth, rotation=angle) for angle in (90, 180, 270, 45)}
    return films | {
        "17×33": Film(24, tenth, 17, 33, pix_fmt="yuv444p"),
        "4000×2": Film(24, tenth, 4000, 2),
        "variable rate": Film(24, tenth, times=tuple(n * n for n in range(24)), grid=Fraction(1, 200)),
        "one frame late": Film(24, tenth, times=(*range(23), 40), grid=Fraction(1, 10)),
        "1 fps": Film(4, Fraction(1)),
        "1000 fps": Film(2000, Fraction(1000), 16, 16),
        "10 bits": Film(24, tenth, pix_fmt="yuv420p10le"),
        "grey": Film(24, tenth, pix_fmt="gray"),
        "wide pixels": Film(24, tenth, aspect=Fraction(64, 3)),
        "b-frames": Film(24, tenth, b_frames=4),
        "H.265": Film(24, tenth, codec="libx265", options=(("x265-params", "log-level=none"),)),
        "AV1": Film(24, tenth, codec="libsvtav1", options=(("preset", "13"), ("svtav1-params", "lp=1"))),
        "MJPEG": Film(24, tenth, codec="mjpeg", pix_fmt="yuvj420p"),
        "MPEG-2": Film(24, Fraction(25), codec="mpeg2video"),
    }


def _sounds() -> dict[str, tuple[str, Track]]:
    def pcm(layout: str = "mono", rate: int = 16_000, codec: str = "pcm_s16le", format: str = "s16") -> Track:
        return Track(rate, layout, codec, 2.0, format)

    sounds = {f"{rate} Hz": ("wav", pcm(rate=rate)) for rate in (1000, 8000, 11_025, 96_000, 192_000, 767_999)}
    layouts = ("stereo", "2.1", "quad", "5.1", "6.1", "7.1", "hexadecagonal", "64 channels")
    sounds |= {f"{layout} wav": ("wav", pcm(layout)) for layout in layouts}
    sounds |= {f"{layout} flac": ("flac", pcm(layout, codec="flac")) for layout in ("5.1", "7.1")}
    sounds |= {f"{layout} aac": ("m4a", Track(48_000, layout, seconds=2.0)) for layout in ("5.1", "7.1", "hexagonal")}
    return sounds | {
        "7.1 opus": ("ogg", Track(48_000, "7.1", "libopus", 2.0)),
        "8 kHz opus": ("ogg", Track(8000, "mono", "libopus", 2.0)),
        "8 bits": ("wav", pcm(codec="pcm_u8", format="u8")),
        "32 bits": ("wav", pcm(codec="pcm_s32le", format="s32")),
        "floating point": ("wav", pcm(codec="pcm_f32le", format="flt")),
        "A-law": ("wav", pcm(codec="pcm_alaw")),
        "8 kHz mp3": ("mp3", Track(8000, "mono", "libmp3lame", 2.0)),
        "ALAC": ("m4a", pcm(codec="alac", format="s16")),
        "AC-3": ("mkv", Track(48_000, "5.1", "ac3", 2.0)),
        "ADPCM": ("wav", pcm(codec="adpcm_ima_wav")),
    }


def headers(sources: Sources) -> Iterator[Case]:
    """WAV, GIF, AVI, Matroska, FLAC, Ogg, AIFF and ADTS whose headers lie."""
    for name, data in _waves().items():
        yield Case("wav", name, data, "a2v", "sound.wav")
    for name, data in _gifs().items():
        yield Case("gif", name, data, filename="clip.gif")
    for name, data in _matroska().items():
        yield Case("matroska", name, data, filename="clip.mkv")
    for name, data in _patched(sources).items():
        yield Case("header", name, data, "v2a" if name.startswith("avi") else "a2v", f"x.{name.partition(' ')[0]}")


def _wave(data: bytes, tag: int = 1, channels: int = 1, rate: int = 16_000, bits: int = 16, align: int | None = None,
          size: int | None = None, more: bytes = b"") -> bytes:  # fmt: skip
    step = channels * bits // 8 if align is None else align
    fmt = struct.pack("<HHIIHH", tag & 0xFFFF, channels, rate, min(HUGE, rate * step), step & 0xFFFF, bits)
    body = b"WAVEfmt " + struct.pack("<I", 16) + fmt + more
    body += b"data" + struct.pack("<I", len(data) if size is None else size) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _waves() -> dict[str, bytes]:
    second = bytes(32_000)
    floats = struct.pack("<4f", float("nan"), float("inf"), -float("inf"), 1e38) * 4000
    return {
        "no channels": _wave(second, channels=0),
        "65 channels": _wave(second * 65, channels=65),
        "65 535 channels": _wave(second, channels=65_535),
        "0 Hz": _wave(second, rate=0),
        "1 Hz": _wave(second, rate=1),
        "2³²−1 Hz": _wave(second, rate=HUGE),
        "2 MHz": _wave(second * 99, rate=2_000_000),
        "0 bits": _wave(second, bits=0),
        "65 535 bits": _wave(second, bits=65_535),
        "24 bits in 2 bytes": _wave(second, bits=24, align=2),
        "blocks of 0": _wave(second, align=0),
        "blocks of 65 535": _wave(second, align=65_535),
        "data of 2³²−1": _wave(second, size=HUGE),
        "data of 0": _wave(second, size=0),
        "no data": _wave(b""),
        "one sample": _wave(b"\0\0"),
        "an odd byte": _wave(second + b"\0"),
        "NaN and infinity": _wave(floats, tag=3, bits=32),
        "64-bit floats": _wave(floats, tag=3, bits=64),
        "hours at 1 Hz": _wave(bytes(10_000), rate=1, bits=8),
        "mp3 said to be inside": _wave(second, tag=0x55),
        "unknown format": _wave(second, tag=0xFFFF),
        "extensible without its part": _wave(second, tag=0xFFFE),
        "h264 said to be inside": _wave(second, tag=0x34363248),
        "list of 4 GiB": _wave(second, more=b"LIST" + struct.pack("<I", HUGE) + b"INFO"),
        "path as title": _wave(second, more=b"LIST\x1c\0\0\0INFOINAM\x10\0\0\0../../etc/passwd"),
        "samples for a video": _wave(second) + b"\x00\x00\x00\x18ftypisom",
        "RF64 of 2⁶⁴−1": b"RF64\xff\xff\xff\xffWAVEds64" + struct.pack("<I", 28) + b"\xff" * 28 + _wave(second)[12:],
    }


def _gif(
    width: int, height: int, frames: int, delay: int, code: bytes = b"\2\2D\1\0", frame: tuple[int, int] = (1, 1)
) -> bytes:
    picture = b"!\xf9\4\0" + struct.pack("<H", delay) + b"\0\0,\0\0\0\0" + struct.pack("<HH", *frame) + b"\0" + code
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0\xff\xff\xff\0\0\0" + picture * frames + b";"


def _gifs() -> dict[str, bytes]:
    return {
        "1×1": _gif(1, 1, 20, 10),
        "0×0": _gif(0, 0, 20, 10),
        "16384×16384": _gif(16_384, 16_384, 20, 10),
        "65535×65535": _gif(65_535, 65_535, 20, 10),
        "8192×4320": _gif(8192, 4320, 20, 10),
        "frames beyond the picture": _gif(64, 64, 20, 10, frame=(65_535, 65_535)),
        "frames of 0×0": _gif(64, 64, 20, 10, frame=(0, 0)),
        "no frames": _gif(64, 64, 0, 10),
        "one frame": _gif(64, 64, 1, 10),
        "0 fps: delays of 0": _gif(64, 64, 200, 0),
        "delays of eleven minutes": _gif(64, 64, 3, 65_535),
        "50 000 frames": _gif(64, 64, 50_000, 2),
        "8K 20 000 times": _gif(8192, 4320, 20_000, 1),
        "bad codes": _gif(64, 64, 20, 10, b"\2\4\xff\xff\xff\xff\0", (64, 64)),
        "code size 255": _gif(64, 64, 20, 10, b"\xff\2D\1\0"),
        "no end": _gif(64, 64, 20, 10)[:-1],
        "endless comment": b"GIF89a\1\0\1\0\0\0\0!\xfe" + (b"\xff" + b"x" * 255) * 2000,
    }


def _element(number: str, content: bytes, size: int | None = None) -> bytes:
    """EBML (RFC 8794): number, length in eight bytes, content."""
    length = len(content) if size is None else size
    return bytes.fromhex(number) + (length | 1 << 56).to_bytes(8, "big") + content


def _uint(number: str, value: int) -> bytes:
    return _element(number, value.to_bytes(8, "big"))


def _mkv(track: bytes, frame: bytes, times: list[int], duration: float = 2400.0, tail: bytes = b"") -> bytes:
    head = _element("1A45DFA3", _element("4282", b"matroska"))
    info = _element("1549A966", _uint("2AD7B1", 10**6) + _element("4489", struct.pack(">d", duration)))
    blocks = b"".join(_element("A3", b"\x81" + struct.pack(">h", time) + b"\x80" + frame) for time in times)
    cluster = _element("1F43B675", _uint("E7", 0) + blocks)
    return head + _element("18538067", info + _element("1654AE6B", _element("AE", track)) + cluster + tail)


def _matroska() -> dict[str, bytes]:
    def raw(width: int, height: int, more: bytes = b"", codec: bytes = b"V_UNCOMPRESSED") -> bytes:
        shape = _uint("B0", width) + _uint("BA", height) + _element("2EB524", b"I420")
        return _uint("D7", 1) + _uint("73C5", 1) + _uint("83", 1) + _element("86", codec) + _element("E0", shape) + more

    def coded(algorithm: int, data: bytes, settings: bytes = b"") -> bytes:
        packing = _element("5034", _uint("4254", algorithm) + settings)
        return _mkv(raw(64, 64, _element("6D80", _element("6240", packing))), data, times)

    times, frame = list(range(0, 2400, 100)), bytes(64 * 64 * 3 // 2)
    good, bomb = _mkv(raw(64, 64), frame, times), zlib.compress(bytes(2**27), 1)
    locked = _element("6D80", _element("6240", _uint("5033", 1) + _element("5035", _uint("47E1", 5))))
    sizes = {f"{w}×{h}": _mkv(raw(w, h), frame, times) for w, h in ((0, 0), (1, 1), (16_384, 16_384), (2**31, 2**31))}
    spans = {"NaN": float("nan"), "infinite": float("inf"), "negative": -5.0, "1e300": 1e300, "0": 0.0}
    lengths = {f"duration {name}": _mkv(raw(64, 64), frame, times, length) for name, length in spans.items()}
    return (
        sizes
        | lengths
        | {
            "as it should be": good,
            "negative times": _mkv(raw(64, 64), frame, [time - 1000 for time in times]),
            "times backwards": _mkv(raw(64, 64), frame, times[::-1]),
            "one time only": _mkv(raw(64, 64), frame, [0] * 24),
            "0 fps: frames of no length": _mkv(raw(64, 64, _uint("23E383", 0)), frame, times),
            "frames of 2⁶³ ns": _mkv(raw(64, 64, _uint("23E383", 2**63)), frame, times),
            "encrypted": _mkv(raw(64, 64, locked), frame, times),
            "zlib bomb": coded(0, bomb),
            "bzlib of noise": coded(1, b"BZh9" + b"\xff" * 100),
            "lzo of noise": coded(2, b"\xff" * 100),
            "stripped headers": coded(3, frame, _element("4255", bytes(1000))),
            "packing 99": coded(99, frame),
            "unknown codec": _mkv(raw(64, 64, codec=b"V_NOTHING"), frame, times),
            "H.264 without its header": _mkv(raw(64, 64, codec=b"V_MPEG4/ISO/AVC"), frame, times),
            "subtitles only": _mkv(_uint("D7", 1) + _uint("83", 17) + _element("86", b"S_TEXT/UTF8"), b"Hello", times),
            "no tracks": good[:80],
            "element of 2⁵⁶−2": good + _element("EC", b"", 2**56 - 2),
            "head of 2⁵⁶−2": _element("1A45DFA3", b"", 2**56 - 2),
            "tags in tags 5000 times": _mkv(raw(64, 64), frame, times, tail=_tags(5000)),
            "attachment by a path": _mkv(
                raw(64, 64),
                frame,
                times,
                tail=_element(
                    "1941A469",
                    _element(
                        "61A7",
                        _element("466E", b"../../etc/passwd")
                        + _element("4660", b"font/ttf")
                        + _element("465C", b"x")
                        + _uint("46AE", 1),
                    ),
                ),
            ),
            "linked segments": _mkv(
                raw(64, 64),
                frame,
                times,
                tail=_element("1549A966", _element("3EB923", bytes(16)) + _element("3E83BB", b"/etc/passwd")),
            ),
        }
    )


def _tags(depth: int) -> bytes:
    """SimpleTag elements in each other, lengths in their shortest form so that the file stays small."""
    core = b""
    for _ in range(depth):
        core = bytes.fromhex("67C8") + (len(core) | 1 << 28).to_bytes(4, "big") + core
    return _element("1254C367", _element("7373", core))


def _patched(sources: Sources) -> dict[str, bytes]:
    """Single fields of good files."""

    def patch(name: str, at: int, value: bytes) -> bytes:
        data = sources.files[name]
        return data[:at] + value + data[at + len(value) :]

    avi, flac, aiff = (sources.files[name] for name in ("avi", "flac", "aiff"))
    main, stream, picture = avi.index(b"avih") + 8, avi.index(b"strh") + 8, avi.index(b"strf") + 8
    common = aiff.index(b"COMM") + 8
    pictured = b"\x86" + (60).to_bytes(3, "big") + struct.pack(">II", 3, 3) + b"-->" + struct.pack(">I", 0)
    return {
        "avi 0 µs a frame": patch("avi", main, bytes(4)),
        "avi rate 0": patch("avi", stream + 24, bytes(4)),
        "avi scale 0": patch("avi", stream + 20, bytes(4)),
        "avi 2³²−1 frames": patch("avi", stream + 32, b"\xff" * 4),
        "avi 1×1": patch("avi", picture + 4, struct.pack("<ii", 1, 1)),
        "avi 16384×16384": patch("avi", picture + 4, struct.pack("<ii", 16_384, 16_384)),
        "avi −64×−48": patch("avi", picture + 4, struct.pack("<ii", -64, -48)),
        "avi codec of zeros": patch("avi", picture + 16, bytes(4)),
        "avi 2³²−1 streams": patch("avi", main + 24, b"\xff" * 4),
        "avi list in list": avi[:12] + b"LIST\xff\xff\xff\x7fhdrl" * 3000 + avi[12:],
        "flac rate 0": patch("flac", 18, bytes(3)),
        "flac 2³⁶ samples": patch("flac", 21, b"\xff" * 5),
        "flac blocks of 0": patch("flac", 8, bytes(4)),
        "flac block of 16 MiB": patch("flac", 4, b"\x01\xff\xff\xff"),
        "flac picture at an address": flac[:42] + pictured.ljust(64, b"x") + flac[42:],
        "aiff 0 channels": patch("aiff", common, bytes(2)),
        "aiff 65535 channels": patch("aiff", common, b"\xff\xff"),
        "aiff rate NaN": patch("aiff", common + 8, b"\x7f\xff" + b"\xff" * 8),
        "aiff rate 0": patch("aiff", common + 8, bytes(10)),
        "aiff rate negative": patch("aiff", common + 8, b"\xc0\x0c"),
        "aiff 2³²−1 samples": patch("aiff", common + 2, b"\xff" * 4),
        "ogg version 9": patch("ogg", 4, b"\x09"),
        "ogg position −1": patch("ogg", 6, b"\xff" * 8),
        "ogg 0 channels": patch("ogg", 28 + 9, b"\0"),
        "ogg 255 channels": patch("ogg", 28 + 9, b"\xff"),
        "ogg delay of 65535": patch("ogg", 28 + 10, b"\xff\xff"),
        "ogg 255 segments": patch("ogg", 26, b"\xff"),
        "aac rate 15": patch("aac", 2, b"\x7c"),
        "aac frame of 0": patch("aac", 3, b"\x80\0\0"),
        "mp3 rate 3": patch("mp3", 2, b"\x9c"),
        "m4a brand M4P": patch("m4a", 8, b"M4P "),
    }
