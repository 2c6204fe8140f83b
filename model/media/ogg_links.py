"""Chained Ogg (RFC 3533, 4): logical streams one after another in one file, as radio recorders and `cat` write them.

The library reads the first link, or joins links with wrong times; so each is read as a file of its own.
"""

from __future__ import annotations

import os

MAX_LINKS = 1000
MAX_PAGES = 1_000_000
BUFFER_BYTES = 2**20
CAPTURE = b"OggS\0"
"""The capture pattern and the version."""

HEADER_BYTES = 27 + 255
_BEGINS = 2
"""Header flag of a stream's first page."""


def find_first(head: bytes) -> int | None:
    """Where the first page in `head` that begins a stream is; None if there is none."""
    at = head.find(CAPTURE)
    while at >= 0:
        if at + 5 < len(head) and head[at + 5] & _BEGINS:
            return at
        at = head.find(CAPTURE, at + 1)
    return None


def find(descriptor: int, begin: int = 0) -> list[tuple[int, int]]:
    """First byte and end of each link, of a file whose first page is at `begin`."""
    file = _Buffered(descriptor)
    size, at, before, starts, inside = os.fstat(descriptor).st_size, begin, begin, [begin], False
    for _ in range(MAX_PAGES):
        page = file.read(at, HEADER_BYTES)
        if not page.startswith(CAPTURE) or len(page) < 27:
            # A page that was cut off holds the beginning of what follows it.
            found = file.find(CAPTURE, before + 1)
            if found is None:
                break
            at = before = found
            continue
        begins = bool(page[5] & _BEGINS)
        if begins and inside and len(starts) < MAX_LINKS:
            starts.append(at)
        inside = not begins
        before = at
        at += 27 + page[26] + sum(page[27 : 27 + page[26]])
    return list(zip(starts, [*starts[1:], size], strict=True))


class _Buffered:
    """Reads a file in large pieces; a page is some kilobytes."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._at, self._data = 0, b""

    def read(self, at: int, size: int) -> bytes:
        if not self._at <= at <= at + size <= self._at + len(self._data):
            self._at, self._data = at, os.pread(self._descriptor, BUFFER_BYTES, at)
        return self._data[at - self._at : at - self._at + size]

    def find(self, pattern: bytes, at: int) -> int | None:
        """The first place of `pattern` from `at` on."""
        while len(self.read(at, len(pattern))) == len(pattern):
            found = self._data.find(pattern, at - self._at)
            if found >= 0:
                return self._at + found
            at = self._at + len(self._data) - len(pattern) + 1
        return None


class ByteRange:
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
