"""Good files cut off, with bits flipped, with bytes lost: what disks, networks and people with time do to them."""

from __future__ import annotations

import random
from collections.abc import Iterator

from tests.hostile.boxes import boundaries
from tests.hostile.case import Case, Kind, only
from tests.hostile.sources import Sources

SHARES = (0.02, 0.3, 0.7, 0.97)
FLIPS = 7
"""Files with flipped bits of each kind."""

SOUND_ONLY = ("mp3", "aac", "m4a", "flac", "ogg", "wav", "aiff")


def damaged(sources: Sources, seed: int) -> Iterator[Case]:
    """Every damage to every source. The same seed gives the same damage."""
    for name in ("mp4", "end.mp4", "frag.mp4", "m4a"):
        yield from _cut_at_boxes(name, sources.files[name])
    for name, data in sources.files.items():
        kind: Kind = "a2v" if name in SOUND_ONLY else "v2a"
        chance = random.Random(f"{seed} {name}")
        if name not in ("mp4", "end.mp4"):
            for share in SHARES:
                yield Case("cut", f"{name} at {share:.0%}", data[: int(len(data) * share)], kind, f"cut.{name}")
        yield from flipped(name, data, chance)
        yield Case("lost", f"{name} a piece", _without_a_piece(data, chance), kind, f"lost.{name}")
        yield Case("lost", f"{name} its beginning", data[chance.randrange(5, 500) :], kind, f"lost.{name}")


def flipped(name: str, data: bytes, chance: random.Random) -> Iterator[Case]:
    """One bit in the head for the first files, then more and more of them anywhere."""
    kind: Kind = "a2v" if name in SOUND_ONLY else "v2a"
    for number in range(FLIPS):
        changed = bytearray(data)
        reach = min(len(data), 2000) if number < FLIPS // 2 else len(data)
        for _ in range(4**number):
            changed[chance.randrange(reach)] ^= 1 << chance.randrange(8)
        yield Case("flip", f"{name} {number}", bytes(changed), kind, f"flip.{name}")


def _cut_at_boxes(name: str, data: bytes) -> Iterator[Case]:
    """Before each box, and within its header. No such file is whole, unless what is lost is a box of comments."""
    kind: Kind = "a2v" if name == "m4a" else "v2a"
    seen = set()
    for path, begin, _ in boundaries(data):
        for at, where in ((begin, "before"), (begin + 6, "in the header of"))[: 2 if name == "mp4" else 1]:
            if at not in seen:
                seen.add(at)
                answers = only(
                    "undecodable", "unsupported_media", "empty_file", "too_short", f"no_{_track(kind)}_track"
                )
                whole = name == "frag.mp4" or path in ("free", "mdat", "mfra")
                yield Case(
                    "box", f"{name} {where} {path} ({at})", data[:at], kind, f"cut.{name}",
                    Case.answers if whole else answers,
                )  # fmt: skip


def _track(kind: Kind) -> str:
    return "video" if kind == "v2a" else "audio"


def _without_a_piece(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data) // 2)
    return data[:at] + data[at + chance.randrange(1, 1000) :]
