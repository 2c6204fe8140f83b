"""The kinds of scenes, their attributes, and the combinations that are held out. Without torch.

Every attribute has two values, is seen and heard, and is independent of the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal

Split = Literal["train", "held_out"]

TIME = ("day", "night")


@dataclass(frozen=True)
class Attribute:
    """A property of a scene with two `values`, numbered 0 and 1."""

    name: str
    values: tuple[str, str]


@dataclass(frozen=True)
class Kind:
    """A kind of scene. `held_out`: the combination of values, one for each attribute, that training never sees."""

    name: str
    attributes: tuple[Attribute, ...]
    held_out: tuple[int, ...]

    def combinations(self, split: Split) -> tuple[tuple[int, ...], ...]:
        """The combinations of values that `split` draws from, with equal probability."""
        if split == "held_out":
            return (self.held_out,)
        every = product((0, 1), repeat=len(self.attributes))
        return tuple(each for each in every if each != self.held_out)


KINDS = (
    Kind(
        "fire",
        (Attribute("size", ("small", "big")), Attribute("crackle", ("calm", "lively")), Attribute("time", TIME)),
        (0, 1, 0),
    ),
    Kind(
        "rain",
        (Attribute("strength", ("light", "heavy")), Attribute("wind", ("still", "windy")), Attribute("time", TIME)),
        (0, 1, 1),
    ),
    Kind(
        "thunder",
        (
            Attribute("distance", ("near", "far")),
            Attribute("strength", ("weak", "strong")),
            Attribute("rain", ("dry", "rainy")),
        ),
        (0, 0, 1),
    ),
    Kind(
        "waves",
        (Attribute("strength", ("calm", "stormy")), Attribute("pace", ("slow", "fast")), Attribute("time", TIME)),
        (1, 0, 1),
    ),
    Kind(
        "waterfall",
        (Attribute("strength", ("thin", "mighty")), Attribute("distance", ("near", "far")), Attribute("time", TIME)),
        (0, 1, 0),
    ),
    Kind(
        "wind",
        (Attribute("strength", ("breeze", "storm")), Attribute("grass", ("short", "tall")), Attribute("time", TIME)),
        (1, 0, 0),
    ),
    Kind(
        "bubbles",
        (
            Attribute("size", ("small", "big")),
            Attribute("number", ("few", "many")),
            Attribute("depth", ("shallow", "deep")),
        ),
        (1, 1, 0),
    ),
    Kind(
        "explosion",
        (
            Attribute("size", ("small", "big")),
            Attribute("distance", ("near", "far")),
            Attribute("debris", ("clean", "debris")),
            Attribute("time", TIME),
        ),
        (0, 1, 1, 0),
    ),
)

NAMES = tuple(kind.name for kind in KINDS)

MOST_ATTRIBUTES = max(len(kind.attributes) for kind in KINDS)
