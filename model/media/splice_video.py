"""Puts made pictures into the frames of an upload, and beside them; every own frame keeps its time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain

import numpy as np
from av.video.frame import VideoFrame
from torch import Tensor

from model.marking.pictures import PictureMark
from model.media.edits import Edit, Made, Span
from model.media.frames import TimedFrame
from model.media.orientation import displayed_size
from model.media.region_mask import rectangle_mask, scaled_mask, soft_edged
from model.media.yuv_blend import replaced

Shown = tuple[TimedFrame, Fraction, Fraction]
"""A frame, and the seconds at which it appears and for which it stays."""

EDGE = Fraction(1, 2000)
"""Seconds by which a frame may begin before a span and be in it: containers round times."""


@dataclass(frozen=True)
class FrameSplice:
    """Changes the frames of an upload as `edit` says.

    `pictures`: the section's frames (frames, h, w, 3) uint8 RGB, as the network `made` them. `mask`: the picture of the
    region's mask (h, w) uint8, if it has one. `mark`: added to the new pictures.
    """

    edit: Edit
    made: Made
    pictures: np.ndarray
    mask: Tensor | None = None
    mark: PictureMark | None = None

    def apply(self, frames: Iterator[Shown], rate: Fraction) -> Iterator[Shown]:
        """`frames` of the whole upload, of about `rate` hertz → those of the result, from time 0 on.

        Added frames come at `rate`, so that a constant rate stays constant.
        """
        before = Fraction(self.edit.before).limit_denominator(10**6)
        first = next(frames)
        yield from self._added(first[0], -before, Fraction(0), rate, before)
        alphas: dict[tuple[int, int], np.ndarray | None] = {}
        last, end = first[0], Fraction(0)
        for shown, time, duration in chain([first], frames):
            last, end = shown, time + duration
            span = self._span_at(time) if self.edit.extend is None else None
            if span is not None:
                size = displayed_size(shown)  # which may change within a stream
                if size not in alphas:
                    alphas[size] = self._alpha(size)
                picture = self.pictures[self.made.frame_at(max(time, Fraction(span[0])), len(self.pictures))]
                shown = replace(shown, frame=self._replaced(shown, picture, alphas[size]))
            yield shown, time + before, duration
        until = end + Fraction(self.edit.after).limit_denominator(10**6)
        yield from self._added(last, end, until, rate, before, self.made.first_from(self.edit.length))

    def _added(
        self, like: TimedFrame, begin: Fraction, end: Fraction, rate: Fraction, shift: Fraction, least: int = 0
    ) -> Iterator[Shown]:
        """New frames from `begin` to `end`, of the looks of `like`; none earlier than the section's frame `least`."""
        time = begin
        while end - time > EDGE:
            stays = min(1 / rate, end - time)
            number = min(max(least, self.made.frame_at(time, len(self.pictures))), len(self.pictures) - 1)
            yield replace(like, frame=self._replaced(like, self.pictures[number], None)), time + shift, stays
            time += stays

    def _replaced(self, shown: TimedFrame, picture: np.ndarray, alpha: np.ndarray | None) -> VideoFrame:
        return replaced(shown, picture, self.made.grid, alpha, self.mark)

    def _span_at(self, time: Fraction) -> Span | None:
        """The span in which a frame at `time` is new."""
        return next((span for span in self.edit.video if span[0] - EDGE <= time < span[1] - EDGE), None)

    def _alpha(self, size: tuple[int, int]) -> np.ndarray | None:
        """How much of each pixel of a displayed picture of `size` (rows, columns) is new; None is all."""
        if self.edit.region is None:
            return None
        if self.mask is not None:
            return soft_edged(scaled_mask(self.mask, *size)).numpy()
        assert self.edit.region.rectangle is not None
        return soft_edged(rectangle_mask(self.edit.region.rectangle, *size)).numpy()
