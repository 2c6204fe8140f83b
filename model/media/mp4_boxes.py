"""The boxes of an MP4 file (ISO/IEC 14496-12, 4.2)."""

from __future__ import annotations

import os
from collections.abc import Iterator

MAX_BOXES = 100_000
"""Boxes read by one walk or search."""

Box = tuple[str, int, int]
"""Type, first byte and end. The end of a box that was cut off is beyond the file's, but not beyond its parent's."""


def walk(
    descriptor: int, begin: int = 0, end: int | None = None, counter: Iterator[int] | None = None
) -> Iterator[Box]:
    """The boxes from `begin` to `end`: by default those at the top level. Stops when `counter` has no more numbers."""
    size, at = os.fstat(descriptor).st_size, begin
    last = size if end is None else min(size, end)
    counter = iter(range(MAX_BOXES)) if counter is None else counter
    while at < last and next(counter, None) is not None:
        header = os.pread(descriptor, 16, at)
        if len(header) < 8:
            return
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        elif length == 0:  # to the end of the file
            length = (size if end is None else end) - at
        if length < 8:
            return
        after = at + length if end is None else min(at + length, end)
        yield kind.decode("latin-1"), at, after
        at = after


def find(descriptor: int, *path: str, within: Box | None = None) -> Iterator[Box]:
    """The boxes at `path`, such as "moov", "trak", in the file or in the box `within`."""
    yield from _find(descriptor, path, within, iter(range(MAX_BOXES)))


def _find(descriptor: int, path: tuple[str, ...], within: Box | None, counter: Iterator[int]) -> Iterator[Box]:
    begin, end = (0, None) if within is None else (within[1] + 8, within[2])
    for box in walk(descriptor, begin, end, counter):
        if box[0] == path[0]:
            yield from _find(descriptor, path[1:], box, counter) if path[1:] else (box,)


def inside(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and content of the boxes that `data` consists of."""
    at = 0
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if length < 8:
            return
        yield data[at + 4 : at + 8], data[at + 8 : at + length]
        at += length


def is_fragmented(descriptor: int) -> bool:
    """True if samples are in movie fragments, whose lengths the index does not know."""
    return any(kind == "moof" for kind, _, _ in walk(descriptor))
