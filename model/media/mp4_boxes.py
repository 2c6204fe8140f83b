"""The boxes of an MP4 file (ISO/IEC 14496-12, 4.2)."""

from __future__ import annotations

import os
from collections.abc import Iterator

MAX_BOXES = 100_000


def walk(descriptor: int) -> Iterator[tuple[str, int, int]]:
    """Type, first byte and end of each box at the top level. The end of a box that was cut off is beyond the file's."""
    size, at = os.fstat(descriptor).st_size, 0
    for _ in range(MAX_BOXES):
        header = os.pread(descriptor, 16, at)
        if len(header) < 8:
            return
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        elif length == 0:  # to the end of the file
            length = size - at
        if length < 8:
            return
        yield kind.decode("latin-1"), at, at + length
        at += length


def is_fragmented(descriptor: int) -> bool:
    """True if samples are in movie fragments, whose lengths the index does not know."""
    return any(kind == "moof" for kind, _, _ in walk(descriptor))
