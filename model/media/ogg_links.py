"""Chained Ogg (RFC 3533, 4): logical streams one after another in one file, as radio recorders and `cat` write them.

The library reads the first link, or joins links with wrong times; so each is read as a file of its own.
"""

from __future__ import annotations

import os

MAX_LINKS = 1000
MAX_PAGES = 1_000_000
_BEGINS = 2
"""Header flag of a stream's first page."""


def find(descriptor: int) -> list[tuple[int, int]]:
    """First byte and end of each link."""
    size, at, starts, inside = os.fstat(descriptor).st_size, 0, [0], False
    for _ in range(MAX_PAGES):
        page = os.pread(descriptor, 27 + 255, at)
        if len(page) < 27 or page[:4] != b"OggS":
            break
        begins = bool(page[5] & _BEGINS)
        if begins and inside and len(starts) < MAX_LINKS:
            starts.append(at)
        inside = not begins
        at += 27 + page[26] + sum(page[27 : 27 + page[26]])
    return list(zip(starts, [*starts[1:], size], strict=True))


class Part:
    """Bytes `begin` … `end` of a file, as a file for the decoder. The descriptor must stay open while it is used."""

    def __init__(self, descriptor: int, begin: int, end: int) -> None:
        self._descriptor = descriptor
        self._begin, self._end, self._at = begin, end, begin

    def read(self, size: int) -> bytes:
        data = os.pread(self._descriptor, max(0, min(size, self._end - self._at)), self._at)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: self._begin, os.SEEK_CUR: self._at, os.SEEK_END: self._end}[whence]
        self._at = max(self._begin, base + offset)
        return self.tell()

    def tell(self) -> int:
        return self._at - self._begin
