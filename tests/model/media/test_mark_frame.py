"""The mark in frames that an edit makes: in the new part of the picture only."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest

from model.marking.pictures import PictureDetector, PictureMark
from model.media.frames import TimedFrame
from model.media.yuv_blend import replaced

KEY = "a key of the tests"


@pytest.mark.parametrize("format", ["yuv420p", "yuvj420p", "rgb24"])
def test_only_what_is_new_has_the_mark(format: str) -> None:
    own = av.VideoFrame.from_ndarray(np.full((96, 160, 3), 90, np.uint8), format="rgb24").reformat(format=format)
    shown, picture = TimedFrame(own, Fraction(0), Fraction(1)), np.full((32, 32, 3), 140, np.uint8)
    right = np.zeros((96, 160), np.float32)
    right[:, 80:] = 1
    plain, marked = (replaced(shown, picture, (32, 32), right, mark).to_ndarray() for mark in (None, PictureMark(KEY)))
    changed = plain[:96] != marked[:96]  # the luma plane, or the picture
    assert not changed[:, :80].any()
    assert changed[:, 80:160].mean() > 0.5
    detector = PictureDetector(KEY)
    whole = replaced(shown, picture, (32, 32), None, PictureMark(KEY))
    detector.add(whole.to_ndarray(format="rgb24"), 0, 1)
    assert detector.finish().found


def test_a_frame_that_is_too_small_stays_as_it_is() -> None:
    own = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), format="rgb24").reformat(format="yuv420p")
    shown, picture = TimedFrame(own, Fraction(0), Fraction(1)), np.full((32, 32, 3), 140, np.uint8)
    plain, marked = (replaced(shown, picture, (32, 32), None, mark).to_ndarray() for mark in (None, PictureMark(KEY)))
    assert np.array_equal(plain, marked)
