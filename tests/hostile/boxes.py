"""MP4 files box by box (ISO/IEC 14496-12): found in real files, and written with whatever nonsense is wanted."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"dinf", b"udta", b"moof", b"traf", b"mvex"}
IDENTITY = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 2**30)


def box(kind: bytes, *content: bytes) -> bytes:
    """A box with its true size."""
    data = b"".join(content)
    return struct.pack(">I4s", len(data) + 8, kind) + data


def full(kind: bytes, *content: bytes, version: int = 0, flags: int = 0) -> bytes:
    """A box with version and flags."""
    return box(kind, struct.pack(">I", version << 24 | flags), *content)


def boundaries(data: bytes, first: int = 0, end: int | None = None) -> Iterator[tuple[str, int, int]]:
    """(path, begin, end) of every box of the file, those inside others too."""
    at, end = first, len(data) if end is None else end
    while at + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, at)
        if size < 8:
            return
        name = kind.decode("latin-1")
        yield name, at, at + size
        if kind in CONTAINERS:
            for inner, begin, stop in boundaries(data, at + 8, at + size):
                yield f"{name}.{inner}", begin, stop
        at += size


@dataclass(frozen=True)
class Samples:
    """A coded track, as an encoder made it: what describes it, its samples, and how long each stays."""

    handler: bytes
    entry: bytes
    samples: Sequence[bytes]
    timescale: int
    delta: int
    width: int = 0
    height: int = 0


@dataclass
class Forgery:
    """An MP4 of one track in which every table can be replaced. None: what is right for the samples."""

    track: Samples
    brand: bytes = b"isom"
    timescale: int | None = None
    duration: int | None = None
    delta: int | None = None
    size: tuple[int, int] | None = None
    matrix: bytes = IDENTITY
    entries: Sequence[bytes] | None = None
    stts: bytes | None = None
    ctts: bytes | None = None
    stsc: bytes | None = None
    stsz: bytes | None = None
    stco: bytes | None = None
    edits: bytes | None = None
    dref: bytes | None = None
    handler: bytes | None = None
    repeat: int = 1
    """The same bytes count as so many samples after one another."""
    before: bytes = b""
    """Further boxes at the beginning of the file; and inside of `moov`."""
    inside: bytes = b""
    tail: bytes = b""
    stbl: bytes | None = None
    tables: dict[str, bytes] = field(default_factory=dict)

    def write(self) -> bytes:
        """The file: `ftyp`, `mdat`, `moov`."""
        head = box(b"ftyp", self.brand, b"\0\0\2\0", b"isomiso2mp41") + self.before
        sizes = [len(one) for one in self.track.samples]
        offsets, at = [], len(head) + 8
        for size in sizes:
            offsets.append(at)
            at += size
        sizes, offsets = sizes * self.repeat, offsets * self.repeat
        return head + box(b"mdat", *self.track.samples) + self._moov(sizes, offsets) + self.tail

    def _moov(self, sizes: list[int], offsets: list[int]) -> bytes:
        timescale = self.track.timescale if self.timescale is None else self.timescale
        delta = self.track.delta if self.delta is None else self.delta
        duration = min(2**32 - 1, len(sizes) * delta if self.duration is None else self.duration)
        handler = self.handler or self.track.handler
        movie = struct.pack(">IIII", 0, 0, timescale, duration) + struct.pack(">IH10x", 65536, 256)
        mvhd = full(b"mvhd", movie, self.matrix, bytes(24), struct.pack(">I", 2))
        width, height = self.size or (self.track.width, self.track.height)
        place = struct.pack(">IIIII8xHHHH", 0, 0, 1, 0, duration, 0, 0, 256, 0)
        tkhd = full(b"tkhd", place, self.matrix, struct.pack(">II", width << 16, height << 16), flags=7)
        mdhd = full(b"mdhd", struct.pack(">IIIIHH", 0, 0, timescale, duration, 0x55C4, 0))
        hdlr = full(b"hdlr", bytes(4), handler, bytes(12), b"x\0")
        header = {b"vide": full(b"vmhd", bytes(8), flags=1), b"soun": full(b"smhd", bytes(4))}
        dref = self.dref or full(b"dref", struct.pack(">I", 1), full(b"url ", flags=1))
        entries = [self.track.entry] if self.entries is None else self.entries
        stbl = self.stbl or box(
            b"stbl",
            full(b"stsd", struct.pack(">I", len(entries)), *entries),
            self.stts or full(b"stts", struct.pack(">III", 1, len(sizes), delta)),
            self.ctts or b"",
            self.stsc or full(b"stsc", struct.pack(">IIII", 1, 1, 1, 1)),
            self.stsz or full(b"stsz", struct.pack(f">II{len(sizes)}I", 0, len(sizes), *sizes)),
            self.stco or full(b"stco", struct.pack(f">I{len(offsets)}I", len(offsets), *offsets)),
        )
        minf = box(b"minf", header.get(handler, full(b"nmhd")), box(b"dinf", dref), stbl)
        edits = box(b"edts", self.edits) if self.edits else b""
        trak = box(b"trak", tkhd, edits, box(b"mdia", mdhd, hdlr, minf))
        return box(b"moov", mvhd, trak, self.inside)


def video_entry(codec: bytes, width: int, height: int, *extra: bytes) -> bytes:
    """A visual sample entry."""
    return box(
        codec, bytes(6), b"\0\1", bytes(16), struct.pack(">HH", width & 0xFFFF, height & 0xFFFF),
        struct.pack(">IIIH32xHh", 72 << 16, 72 << 16, 0, 1, 24, -1), *extra,
    )  # fmt: skip


def sound_entry(codec: bytes, channels: int, bits: int, rate: int, *extra: bytes) -> bytes:
    """A sound sample entry."""
    return box(codec, bytes(6), b"\0\1", bytes(8), struct.pack(">HHHHI", channels, bits, 0, 0, rate << 16), *extra)


def edit_list(*edits: tuple[int, int]) -> bytes:
    """`elst` of (duration, media time) in ticks."""
    return full(b"elst", struct.pack(">I", len(edits)), *(struct.pack(">IiI", *edit, 65536) for edit in edits))
