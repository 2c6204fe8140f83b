"""Puts made pictures into the frames of an upload, and beside them; every own frame keeps its time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain

import numpy as np
from torch import Tensor

from model.media.edits import Edit, Made
from model.media.frames import TimedFrame
from model.media.region_mask import rectangle_mask, scaled_mask, soft_edged
from model.media.yuv_blend import displayed_size, replaced

Shown = tuple[TimedFrame, Fraction, Fraction]
"""A frame, and the seconds at which it appears and for which it stays."""

EDGE = Fraction(1, 2000)
"""Seconds by which a frame may begin before a span and be in it: containers round times."""


@dataclass(frozen=True)
class FrameSplice:
    """Changes the frames of an upload as `edit` says.

    `pictures`: the section's frames (frames, h, w, 3) uint8 RGB, as the network `made` them. `mask`: the picture of the
    region's mask (h, w) uint8, if it has one.
    """

    edit: Edit
    made: Made
    pictures: np.ndarray
    mask: Tensor | None = None

    def apply(self, frames: Iterator[Shown], rate: Fraction) -> Iterator[Shown]:
        """`frames` of the whole upload, of about `rate` hertz → those of the result, from time 0 on.

        Added frames come at `rate`, so that a constant rate stays constant.
        """
        before = Fraction(self.edit.before).limit_denominator(10**6)
        first = next(frames)
        yield from self._added(first[0], -before, Fraction(0), rate, before)
        alpha = self._alpha(first[0])
        last, end = first[0], Fraction(0)
        for shown, time, duration in chain([first], frames):
            last, end = shown, time + duration
            if self.edit.extend is None and self._is_new(time):
                shown = replace(shown, frame=replaced(shown, self._picture(time), self.made.grid, alpha))
            yield shown, time + before, duration
        yield from self._added(last, end, end + Fraction(self.edit.after).limit_denominator(10**6), rate, before)

    def _added(
        self, like: TimedFrame, begin: Fraction, end: Fraction, rate: Fraction, shift: Fraction
    ) -> Iterator[Shown]:
        """New frames from `begin` to `end`, of the looks of `like`."""
        time = begin
        while end - time > EDGE:
            stays = min(1 / rate, end - time)
            yield replace(like, frame=replaced(like, self._picture(time), self.made.grid, None)), time + shift, stays
            time += stays

    def _is_new(self, time: Fraction) -> bool:
        return any(start - EDGE <= time < end - EDGE for start, end in self.edit.video)

    def _picture(self, time: Fraction) -> np.ndarray:
        return self.pictures[self.made.frame_at(time, len(self.pictures))]

    def _alpha(self, shown: TimedFrame) -> np.ndarray | None:
        if self.edit.region is None:
            return None
        size = displayed_size(shown)
        if self.mask is not None:
            return soft_edged(scaled_mask(self.mask, *size)).numpy()
        assert self.edit.region.rectangle is not None
        return soft_edged(rectangle_mask(self.edit.region.rectangle, *size)).numpy()
