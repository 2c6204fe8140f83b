"""What an edit of an upload asks for. Without numpy and torch, because the API reads it too.

All times are seconds of the upload's timeline, which begins at 0 and is `length` long. What `extend` adds before the
beginning has negative times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal

Span = tuple[float, float]
"""Beginning and end."""

MIN_SPAN = 0.02
"""Seconds of the shortest span."""

MAX_SPANS = 32
"""Of one modality."""

MIN_SIDE = 0.01
"""Least width and height of a region, as a share of the picture's."""

MASK_NAME = "mask.png"


@dataclass(frozen=True)
class Retake:
    """Spans of sound and pictures that are made anew, in order."""

    audio: tuple[Span, ...] = ()
    video: tuple[Span, ...] = ()


@dataclass(frozen=True)
class Extend:
    """Seconds that are added before the beginning and after the end."""

    before: float = 0.0
    after: float = 0.0


@dataclass(frozen=True)
class Region:
    """A part of the picture that is made anew from `start` to `end`; None is the upload's end.

    The rectangle is in shares of the picture as it is displayed, from its upper left; None where a mask is given.
    `audio`: whether the sound of that time is made with it.
    """

    x: float | None = None
    y: float | None = None
    width: float | None = None
    height: float | None = None
    start: float = 0.0
    end: float | None = None
    audio: Literal["keep", "new"] = "keep"

    @property
    def rectangle(self) -> tuple[float, float, float, float] | None:
        if self.x is None or self.y is None or self.width is None or self.height is None:
            return None
        return self.x, self.y, self.width, self.height


@dataclass(frozen=True)
class Mask:
    """An uploaded mask picture, white where the picture is new. `key`: its key in storage."""

    filename: str
    bytes: int
    sha256: str
    width: int
    height: int
    key: str


@dataclass(frozen=True)
class Edit:
    """One edit: exactly one of `retake`, `extend` and `region`.

    `length`: seconds of the upload; `start`: where the section that the network sees begins; both known once the upload
    has been probed.
    """

    retake: Retake | None = None
    extend: Extend | None = None
    region: Region | None = None
    mask: Mask | None = None
    length: float = 0.0
    start: float = 0.0

    @property
    def video(self) -> tuple[Span, ...]:
        """Spans in which pictures are new."""
        if self.retake is not None:
            return self.retake.video
        return self._added if self.region is None else self._region

    @property
    def audio(self) -> tuple[Span, ...]:
        """Spans in which sound is new."""
        if self.retake is not None:
            return self.retake.audio
        if self.region is not None:
            return self._region if self.region.audio == "new" else ()
        return self._added

    @property
    def extent(self) -> Span:
        """From the beginning of the first to the end of the last span."""
        spans = self.video + self.audio
        return min(start for start, _ in spans), max(end for _, end in spans)

    @property
    def mixes(self) -> bool:
        """Whether new sound meets the upload's own."""
        return self.extend is None and bool(self.audio)

    @property
    def before(self) -> float:
        return self.extend.before if self.extend is not None else 0.0

    @property
    def after(self) -> float:
        return self.extend.after if self.extend is not None else 0.0

    def params(self) -> dict[str, Any]:
        """The edit as parameters of the API."""
        if self.retake is not None:
            return {"retake": {name: spans for name, spans in _lists(self.retake).items() if spans}}
        if self.extend is not None:
            sides = {"before": self.extend.before, "after": self.extend.after}
            return {"extend": {name: seconds for name, seconds in sides.items() if seconds}}
        assert self.region is not None
        names = ("x", "y", "width", "height", "start", "end", "audio")
        values = {name: getattr(self.region, name) for name in names}
        return {"region": {name: value for name, value in values.items() if value is not None}}

    def with_key(self, key: str) -> Edit:
        """The same with the mask under another key of storage."""
        return self if self.mask is None else replace(self, mask=replace(self.mask, key=key))

    @classmethod
    def from_params(cls, given: dict[str, Any]) -> Edit:
        """The edit from parameters of the API, which `params` returns."""
        retake, extend, region = (given.get(name) for name in ("retake", "extend", "region"))
        spans = (
            {name: tuple((float(a), float(b)) for a, b in retake.get(name, ())) for name in _SIDES} if retake else {}
        )
        return cls(
            Retake(**spans) if retake is not None else None,
            Extend(**extend) if extend is not None else None,
            Region(**region) if region is not None else None,
        )

    @property
    def _added(self) -> tuple[Span, ...]:
        spans = [(-self.before, 0.0)] if self.before else []
        return tuple(spans + ([(self.length, self.length + self.after)] if self.after else []))

    @property
    def _region(self) -> tuple[Span, ...]:
        assert self.region is not None
        return ((self.region.start, self.length if self.region.end is None else self.region.end),)


_SIDES = ("audio", "video")


def _lists(retake: Retake) -> dict[str, list[list[float]]]:
    return {name: [list(span) for span in getattr(retake, name)] for name in _SIDES}


@dataclass(frozen=True)
class Made:
    """What the network made of a section that begins at `start` seconds: frames at `fps` hertz and sound at
    `sample_rate`. `grid`: height and width of the network's own picture, in which the upload's is letter-boxed."""

    start: float
    fps: int
    sample_rate: int
    grid: tuple[int, int]

    def frame_at(self, time: Fraction | float, frames: int) -> int:
        """Number of the frame of `frames` that is shown at `time`."""
        passed = (float(time) - self.start) * self.fps
        return min(max(0, int(passed + 1e-6)), frames - 1)

    def first_from(self, time: float) -> int:
        """Number of the first frame that begins at `time` or later."""
        return max(0, math.ceil((time - self.start) * self.fps - 1e-6))
