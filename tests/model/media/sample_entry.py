"""Adds boxes to the sample entry of an MP4 file (ISO/IEC 14496-12, 8.5.2)."""

from __future__ import annotations

import struct
from pathlib import Path

from tests.hostile.boxes import boundaries, box


def clap(width: int, height: int, across: int = 0, down: int = 0) -> bytes:
    """A clean aperture of `width`×`height` pixels, its centre moved by `across` and `down`."""
    return box(b"clap", struct.pack(">8i", width, 1, height, 1, across, 1, down, 1))


def dolby_vision(profile: int) -> bytes:
    """A configuration record with a base layer and its metadata."""
    return box(b"dvcC", bytes([1, 0, profile << 1, 1 << 3 | 0b101]), bytes(20))


def extend_sample_entry(path: Path, *boxes: bytes) -> Path:
    """Add `boxes` to the first track of a file whose media data precede its index."""
    data, extra = bytearray(path.read_bytes()), b"".join(boxes)
    spans = {name: (begin, end) for name, begin, end in reversed(list(boundaries(bytes(data))))}
    assert spans["moov"][0] > spans["mdat"][0]
    parents = ["moov"]
    for kind in ("trak", "mdia", "minf", "stbl", "stsd"):
        parents.append(f"{parents[-1]}.{kind}")
    begins = [spans[name][0] for name in parents]
    entry = begins[-1] + 16
    for begin in (*begins, entry):
        size = struct.unpack_from(">I", data, begin)[0]
        struct.pack_into(">I", data, begin, size + len(extra))
    end = entry + struct.unpack_from(">I", data, entry)[0] - len(extra)
    path.write_bytes(bytes(data[:end]) + extra + bytes(data[end:]))
    return path
