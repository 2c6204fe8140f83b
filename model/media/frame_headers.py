"""Frame headers of MPEG audio (ISO/IEC 11172-3, 13818-3), ADTS (13818-7) and FLAC (RFC 9639)."""

from __future__ import annotations

from fractions import Fraction

CHAIN = 3
"""Frames in a row that tell audio data from any other. A file with fewer must end with the last of them."""

_BIT_RATES = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Kilobits a second by version and layer."""

_ADTS_RATES = (
    96_000,
    88_200,
    64_000,
    48_000,
    44_100,
    32_000,
    24_000,
    22_050,
    16_000,
    12_000,
    11_025,
    8_000,
    7_350,
    0,
    0,
    0,
)
"""Hertz by the index in a frame's header; 0 where it is reserved."""


def kind(data: bytes, at: int = 0) -> str | None:
    """The demuxer for a frame header at `at`: mp3, aac or flac; None if there is none."""
    if len(data) < at + 4 or data[at] != 0xFF or data[at + 1] & 0xE0 != 0xE0:
        return None
    if data[at + 1] in (0xF8, 0xF9) and _is_flac(data, at):
        return "flac"
    if data[at + 1] & 0xF6 == 0xF0:
        return "aac"
    return "mp3" if _mpeg_length(data, at) else None


def leading(data: bytes) -> str | None:
    """The demuxer for a run of frames at the beginning of `data`; None if there is none.

    One header is not enough: the first four bytes of a text in UTF-16 may look like it.
    """
    found = kind(data)
    return found if found == "flac" or (found is not None and _is_chain(data, 0, found, least=1)) else None


def find(data: bytes) -> tuple[str, int] | None:
    """The first run of frames in `data`: its demuxer and where it begins."""
    at = data.find(b"\xff")
    while at >= 0:
        found = kind(data, at)
        if found == "flac" or (found is not None and _is_chain(data, at, found)):
            return found, at
        at = data.find(b"\xff", at + 1)
    return None


def _is_chain(data: bytes, at: int, wanted: str, least: int = 2) -> bool:
    """True if CHAIN frames of one kind begin at `at`, or at least `least` that end with the data."""
    length = _adts_length if wanted == "aac" else _mpeg_length
    fixed = data[at + 1]
    for count in range(CHAIN):
        if at == len(data):
            return count >= least
        if kind(data, at) != wanted or data[at + 1] != fixed:
            return False
        step = length(data, at)
        if step < 7:
            return False
        at += step
    return True


def seconds(frame: bytes | memoryview) -> Fraction:
    """Seconds of sound in a frame of MPEG audio or ADTS; 0 for anything else."""
    if len(frame) < 7 or frame[0] != 0xFF or frame[1] & 0xE0 != 0xE0:
        return Fraction(0)
    if frame[1] & 0xF6 == 0xF0:
        rate = _ADTS_RATES[frame[2] >> 2 & 15]
        return Fraction(1024 * ((frame[6] & 3) + 1), rate) if rate else Fraction(0)
    version, layer, rate = frame[1] >> 3 & 3, 4 - (frame[1] >> 1 & 3), frame[2] >> 2 & 3
    if version == 1 or layer == 4 or rate == 3:
        return Fraction(0)
    samples = {1: 384, 2: 1152, 3: 1152 if version == 3 else 576}[layer]
    return Fraction(samples, _mpeg_rate(version, rate))


def _mpeg_rate(version: int, index: int) -> int:
    return (44_100, 48_000, 32_000)[index] >> {3: 0, 2: 1, 0: 2}[version]


def _adts_length(data: bytes, at: int) -> int:
    """Bytes of the frame; 0 if its sample rate is reserved."""
    if len(data) < at + 7 or data[at + 2] >> 2 & 15 > 12:
        return 0
    return (data[at + 3] & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5


def _mpeg_length(data: bytes, at: int) -> int:
    """Bytes of the frame; 0 if a field has a reserved value."""
    version, layer = data[at + 1] >> 3 & 3, 4 - (data[at + 1] >> 1 & 3)
    bit_rate, sample_rate = data[at + 2] >> 4, data[at + 2] >> 2 & 3
    if version == 1 or layer == 4 or bit_rate in (0, 15) or sample_rate == 3:
        return 0
    bits = 1000 * _BIT_RATES[1 if version == 3 else 2, layer][bit_rate - 1]
    hertz = _mpeg_rate(version, sample_rate)
    padding = data[at + 2] >> 1 & 1
    if layer == 1:
        return (12 * bits // hertz + padding) * 4
    return (72 if layer == 3 and version != 3 else 144) * bits // hertz + padding


def _is_flac(data: bytes, at: int) -> bool:
    """True if the header's checksum is right (CRC-8, polynomial 0x07)."""
    if len(data) < at + 16:
        return False
    size, rate = data[at + 2] >> 4, data[at + 2] & 15
    lead = data[at + 4]
    number = 1 if lead < 0x80 else 8 - (lead ^ 0xFF).bit_length()
    if size == 0 or rate == 15 or data[at + 3] & 1 or not 1 <= number <= 7:
        return False
    end = at + 4 + number + {6: 1, 7: 2}.get(size, 0) + {12: 1, 13: 2, 14: 2}.get(rate, 0)
    checksum = 0
    for byte in data[at:end]:
        checksum ^= byte
        for _ in range(8):
            checksum = (checksum << 1 ^ (0x07 if checksum & 0x80 else 0)) & 0xFF
    return end < len(data) and checksum == data[end]
