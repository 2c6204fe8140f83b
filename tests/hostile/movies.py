"""MP4 files whose tables lie: sizes, times, counts, dimensions, references, encryption."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace

from tests.hostile.boxes import Forgery, Samples, box, edit_list, full, sound_entry, video_entry
from tests.hostile.case import ACCEPTED, Case, only
from tests.hostile.sources import Sources

HUGE = 2**32 - 1
UNUSABLE = only("undecodable", "too_short", "no_video_track")


def movies(sources: Sources, canary: str, port: int) -> Iterator[Case]:
    """Every forgery."""
    track = sources.h264
    good = Forgery(track)
    yield Case("mp4", "as it should be", good.write(), answers=only(ACCEPTED))
    for name, forged in _tables(track).items():
        yield Case("mp4", name, forged.write())
    for name, data in _sizes(good.write()).items():
        yield Case("mp4 sizes", name, data)
    for name, forged in _references(track, canary, port).items():
        yield Case("mp4 reference", name, forged.write())
    for name, forged in _protected(track).items():
        yield Case("mp4 protected", name, forged.write())
    yield from _dimensions(track)
    yield from _bombs(track)
    yield from _sounds()


def _tables(track: Samples) -> dict[str, Forgery]:
    count = len(track.samples)
    names = (b"stts", b"ctts", b"stsc", b"stsz", b"stco")
    too_many = {
        f"{name.decode()} of 2³²−1 entries": Forgery(
            track, **{name.decode(): full(name, struct.pack(">II", *((0, HUGE) if name == b"stsz" else (HUGE, 0))))}
        )
        for name in names
    }  # type: ignore[arg-type]
    nothing = {f"{name.decode()} empty": Forgery(track, **{name.decode(): full(name, bytes(8))})  # type: ignore[arg-type]
               for name in names}  # fmt: skip
    entries = {
        "no sample description": [], "unknown codec": [video_entry(b"zzzz", 64, 48)],
        "description cut": [track.entry[:40]], "codec without its header": [video_entry(b"avc1", 64, 48)],
        "header of zeros": [video_entry(b"avc1", 64, 48, box(b"avcC", bytes(40)))],
        "500 descriptions": [track.entry] * 500,
    }  # fmt: skip
    described = {name: Forgery(track, entries=each) for name, each in entries.items()}
    turn, mirror = (0, 65536, 0, -65536, 0, 0, 0, 0, 2**30), (-65536, 0, 0, 0, 65536, 0, 0, 0, 2**30)
    skew = (46341, 46341, 0, -46341, 46341, 0, 0, 0, 2**30)
    matrices = {"turned": turn, "mirrored": mirror, "by 45°": skew, "of zeros": (0,) * 9, "huge": (2**31 - 1,) * 9}
    turned = {f"matrix {name}": Forgery(track, matrix=struct.pack(">9i", *each)) for name, each in matrices.items()}
    edits = {
        "negative": ((count, -5),), "an empty beginning": ((5, -1), (count, 0)), "beyond the end": ((count, 10**6),),
        "of nothing": ((0, 0),), "100 000 times": ((1, 0),) * 100_000, "backwards": ((5, 15), (5, 0)),
    }  # fmt: skip
    edited = {f"edits {name}": Forgery(track, edits=edit_list(*each)) for name, each in edits.items()}
    return too_many | nothing | described | turned | edited | {
        "0 fps: no time passes": Forgery(track, delta=0, duration=0),
        "0 fps: but a duration": Forgery(track, delta=0, duration=24),
        "timescale 0": Forgery(track, timescale=0),
        "timescale 2³²−1": Forgery(track, timescale=HUGE),
        "duration 2³²−1": Forgery(track, duration=HUGE),
        "no duration": Forgery(track, duration=0),
        "one frame an hour": Forgery(track, delta=36_000),
        "a frame of 2³²−1": Forgery(track, delta=HUGE),
        "24 000 fps": Forgery(track, timescale=24_000, repeat=1600),
        "variable rate": Forgery(track, stts=full(b"stts", struct.pack(">I6I", 3, 8, 1, 8, 2, 8, 1))),
        "rate that falls to nothing": Forgery(track, stts=full(b"stts", struct.pack(">I4I", 2, 20, 1, 4, 10**6))),
        "negative time stamps": Forgery(track, ctts=full(b"ctts", struct.pack(">IIi", 1, count, -30), version=1)),
        "time stamps that jump": Forgery(track, ctts=full(b"ctts", struct.pack(">I4I", 2, 12, 0, 12, 2**31 - 1))),
        "samples beyond the end": Forgery(track, stco=full(b"stco", struct.pack(">II", 1, HUGE - 1))),
        "samples in the header": Forgery(track, stco=full(b"stco", struct.pack(f">I{count}I", count, *[0] * count))),
        "sample of 2 GiB": Forgery(track, stsz=full(b"stsz", struct.pack(">III", 0, 1, 2**31 - 1))),
        "samples all of 2³²−1": Forgery(track, stsz=full(b"stsz", struct.pack(">II", HUGE, count))),
        "a thousand million samples": Forgery(track, stsz=full(b"stsz", struct.pack(">II", 1, 10**9)),
                                               stts=full(b"stts", struct.pack(">III", 1, 10**9, 1))),
        "chunks of 2³²−1 samples": Forgery(track, stsc=full(b"stsc", struct.pack(">IIII", 1, 1, HUGE, 1))),
        "chunks of description 99": Forgery(track, stsc=full(b"stsc", struct.pack(">IIII", 1, 1, 1, 99))),
        "no tables": Forgery(track, stbl=box(b"stbl")),
        "tables in tables": Forgery(track, stbl=_nested(b"stbl", 200)),
        "handler of no kind": Forgery(track, handler=b"\0\0\0\0"),
        "pictures said to be sound": Forgery(track, handler=b"soun"),
        "subtitles only": Forgery(replace(track, handler=b"sbtl", entry=box(b"tx3g", bytes(38)))),
        "text only": Forgery(replace(track, handler=b"text", entry=box(b"text", bytes(50)))),
        "time code only": Forgery(replace(track, handler=b"tmcd", entry=box(b"tmcd", bytes(26)))),
        "second movie header": Forgery(track, inside=full(b"mvhd", bytes(96))),
        "empty track beside": Forgery(track, inside=box(b"trak")),
        "1000 empty tracks beside": Forgery(track, inside=box(b"trak") * 1000),
        "brand of zeros": Forgery(track, brand=b"\0\0\0\0"),
        "fragments that never come": Forgery(track, inside=box(b"mvex", full(b"trex", bytes(20)))),
        "metadata of NULs": Forgery(track, inside=box(b"udta", box(b"\xa9nam", b"\0\x10\0\0", bytes(16)))),
        "metadata not UTF-8": Forgery(track, inside=box(b"udta", box(b"\xa9nam", b"\0\4\0\0", b"\xff\xfe\xfd\xfc"))),
        "compressed header": Forgery(track, inside=box(b"cmov", box(b"dcom", b"zlib"), box(b"cmvd", b"\xff" * 100))),
        "header bomb": Forgery(track, inside=_compressed_header()),
    }  # fmt: skip


def _nested(kind: bytes, depth: int, core: bytes = b"") -> bytes:
    for _ in range(depth):
        core = box(kind, core)
    return core


def _compressed_header() -> bytes:
    """QuickTime's `cmov`: 64 MiB of zeros in 64 KiB, said to be 4 GiB."""
    packed = zlib.compress(bytes(2**26), 1)
    return box(b"cmov", box(b"dcom", b"zlib"), box(b"cmvd", struct.pack(">I", HUGE), packed))


def _sizes(good: bytes) -> dict[str, bytes]:
    """Boxes whose size is not theirs."""
    moov, mdat = good.rindex(b"moov") - 4, good.index(b"mdat") - 4
    ftyp = box(b"ftyp", b"isom\0\0\2\0isom")

    def resized(at: int, size: int) -> bytes:
        return good[:at] + struct.pack(">I", size) + good[at + 4 :]

    return {
        "mdat of 0": resized(mdat, 0), "mdat of 1": resized(mdat, 1), "mdat of 7": resized(mdat, 7),
        "mdat of 4 GiB": resized(mdat, HUGE), "moov of 0": resized(moov, 0), "moov of 1": resized(moov, 1),
        "moov of 7": resized(moov, 7), "moov of 4 GiB": resized(moov, HUGE), "ftyp of 0": resized(0, 0),
        "ftyp of 4 GiB": resized(0, HUGE),
        "mdat of 2⁶³": ftyp + struct.pack(">I4sQ", 1, b"mdat", 2**63 - 1) + good,
        "mdat of 2⁶⁴−1": ftyp + struct.pack(">I4sQ", 1, b"mdat", 2**64 - 1) + good,
        "moov of 2⁶⁴−1": ftyp + struct.pack(">I4sQ", 1, b"moov", 2**64 - 1) + good[moov:],
        "free of 2⁶² first": ftyp + struct.pack(">I4sQ", 1, b"free", 2**62) + good,
        "moov in moov 30 times": ftyp + _nested(b"moov", 30, good[moov + 8 :]),
        "moov in moov 5000 times": ftyp + _nested(b"moov", 5000),
        "trak in trak 5000 times": ftyp + box(b"moov", _nested(b"trak", 5000)),
        "udta in meta 5000 times": ftyp + box(b"moov", _nested(b"udta", 2500, _nested(b"meta", 2500))),
        "100 000 empty boxes": ftyp + box(b"free") * 100_000 + good,
        "moov twice": good + good[moov:],
        "only moov": ftyp + good[moov:],
        "empty moov": ftyp + box(b"moov"),
        "boxes without names": ftyp + (struct.pack(">I", 8) + bytes(4)) * 1000,
        "only ftyp, 100 times": ftyp * 100,
    }  # fmt: skip


def _references(track: Samples, canary: str, port: int) -> dict[str, Forgery]:
    """Samples said to lie in another file (8.7.2): it must stay shut."""
    forged = {}
    targets = {"canary": canary, "file://": f"file://{canary}", "passwd": "/etc/passwd", "above": "../../../etc/passwd",
               "address": f"http://127.0.0.1:{port}/x", "tcp": f"tcp://127.0.0.1:{port}"}  # fmt: skip
    for name, target in targets.items():
        text = target.encode() + b"\0"
        forged[f"url {name}"] = Forgery(track, dref=references_to(full(b"url ", text)))
        forged[f"urn {name}"] = Forgery(track, dref=references_to(full(b"urn ", b"x\0", text)))
        forged[f"alias {name}"] = Forgery(track, dref=references_to(full(b"alis", alias(target))))
    movie = box(
        b"rmra", box(b"rmda", full(b"rdrf", b"url ", struct.pack(">I", len(canary) + 1), canary.encode() + b"\0"))
    )
    forged["reference movie"] = Forgery(track, inside=movie)
    return forged


def references_to(entry: bytes) -> bytes:
    return full(b"dref", struct.pack(">I", 1), entry)


def alias(target: str) -> bytes:
    """A Macintosh alias record with the path in its fields 2 and 18 (QuickTime File Format, data references)."""
    path = target.encode()
    name = path.rpartition(b"/")[2][:27]
    record = bytes(4) + struct.pack(">HHH", 150, 2, 0) + b"\4disk".ljust(28, b"\0") + bytes(12)
    record += bytes([len(name)]) + name.ljust(63, b"\0") + bytes(16) + struct.pack(">hh", 0, 0) + bytes(16)
    for kind in (2, 18):
        record += struct.pack(">hH", kind, len(path)) + path + b"\0" * (len(path) % 2)
    return record + struct.pack(">hH", -1, 0)


def _protected(track: Samples) -> dict[str, Forgery]:
    """Common encryption (ISO/IEC 23001-7), without the key."""

    def sinf(scheme: bytes, original: bytes) -> bytes:
        tenc = full(b"tenc", b"\0\0\1\x08", bytes(range(16)))
        return box(b"sinf", box(b"frma", original), full(b"schm", scheme, b"\0\1\0\0"), box(b"schi", tenc))

    inner = track.entry[8:]
    forged = {
        scheme.decode(): Forgery(track, entries=[box(b"encv", inner, sinf(scheme, b"avc1"))])
        for scheme in (b"cenc", b"cbcs", b"cbc1", b"cens", b"\0\0\0\0")
    }
    forged["of itself"] = Forgery(track, entries=[box(b"encv", inner, sinf(b"cenc", b"encv"))])
    forged["without a scheme"] = Forgery(track, entries=[box(b"encv", inner)])
    forged["drms"] = Forgery(track, entries=[box(b"drmi", inner)])
    forged["pssh of 4 GiB"] = Forgery(track, inside=full(b"pssh", bytes(16), struct.pack(">I", HUGE)))
    return forged


def png_track(width: int, height: int) -> Samples:
    """A black picture of any size as PNG: little in bytes, all of it in memory."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width + 1) * height), 1)
    picture = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return Samples(b"vide", video_entry(b"png ", width, height), [picture], 10, 1, width, height)


def _dimensions(track: Samples) -> Iterator[Case]:
    for width, height in ((0, 0), (1, 1), (16_384, 16_384), (65_535, 65_535), (1, 65_535)):
        forged = Forgery(track, size=(width, height), entries=[video_entry(b"avc1", width, height, track.entry[86:])])
        yield Case("mp4 size", f"{width}×{height} about the same pictures", forged.write())
        said = Forgery(replace(png_track(16, 16), entry=video_entry(b"png ", width, height)), repeat=20)
        yield Case("mp4 size", f"{width}×{height} about small PNG", said.write())
    for width, height in ((1, 1), (3, 1), (1, 3), (2, 2000), (8192, 4320), (4320, 8192)):
        yield Case("mp4 size", f"{width}×{height} in truth", Forgery(png_track(width, height), repeat=20).write())
    for width, height in ((8194, 4320), (8192, 4322), (16_384, 16_384), (60_000, 10)):
        forged = Forgery(png_track(width, height), repeat=20)
        yield Case("mp4 size", f"{width}×{height} in truth", forged.write(),
                   answers=only("too_many_pixels", "undecodable"))  # fmt: skip
    secret = replace(png_track(12_000, 12_000), entry=video_entry(b"png ", 64, 64), width=64, height=64)
    yield Case("mp4 size", "12000×12000 said to be 64×64", Forgery(secret, repeat=20).write(),
               answers=only("too_many_pixels", "undecodable"))  # fmt: skip


def _bombs(track: Samples) -> Iterator[Case]:
    """Few bytes, many frames."""
    large = png_track(8192, 4320)
    yield Case("bomb", "8K at 1000 Hz", Forgery(large, timescale=1000, repeat=2000).write())
    yield Case("bomb", "4K at 10 000 Hz", Forgery(png_track(3840, 2160), timescale=10_000, repeat=20_000).write())
    yield Case(
        "bomb", "a million frames in a second", Forgery(png_track(16, 16), timescale=10**6, repeat=10**6).write()
    )
    yield Case("bomb", "hours of them", Forgery(png_track(16, 16), repeat=10**6).write(), answers=only("too_long"))
    yield Case("bomb", "H.264 at 240 kHz", Forgery(track, timescale=240_000, repeat=16_000).write())


def _sounds() -> Iterator[Case]:
    pcm = [bytes(3200)] * 24
    for name, channels, bits, rate in (
        ("as it should be", 1, 16, 16_000), ("no channels", 0, 16, 16_000), ("65 535 channels", 65_535, 16, 16_000),
        ("no bits", 1, 0, 16_000), ("65 535 bits", 1, 65_535, 16_000), ("0 Hz", 1, 16, 0), ("1 Hz", 1, 16, 1),
        ("65 535 Hz", 1, 16, 65_535), ("64 channels", 64, 16, 16_000), ("300 channels", 300, 16, 16_000),
    ):  # fmt: skip
        track = Samples(b"soun", sound_entry(b"sowt", channels, bits, rate), pcm, 16_000, 1600)
        yield Case("mp4 sound", name, Forgery(track).write(), "a2v")
    for codec in (b"mp4a", b"ac-3", b"alac", b"fLaC", b"Opus", b"enca", b"drms", b"QDM2", b"samr", b"dtsc", b"ulaw"):
        track = Samples(b"soun", sound_entry(codec, 2, 16, 44_100), pcm, 44_100, 1024)
        yield Case("mp4 sound", f"zeros as {codec.decode()}", Forgery(track).write(), "a2v")
