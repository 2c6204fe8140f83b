"""Adds the mark in the signal to a frame that is made for an upload."""

from __future__ import annotations

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange

from model.marking.pictures import PictureMark, added, can_hold
from model.media.frames import TimedFrame
from model.media.orientation import displayed_size, stored

FULL_SPAN, LIMITED_SPAN = 255.0, 219.0
"""From black to white: of RGB and full range, and of limited range (ITU-R BT.601)."""


def mark_frame(made: VideoFrame, shown: TimedFrame, mark: PictureMark) -> VideoFrame:
    """`made`, which takes the place of `shown`, with the mark: in rgb24, or in the luma of 8-bit 4:2:0.

    A frame that is too small for the mark stays as it is.
    """
    rows, columns = displayed_size(shown)
    if not can_hold(rows, columns):
        return made
    if made.format.is_rgb:
        pattern = stored(mark.pattern(rows, columns, FULL_SPAN), shown.display_matrix)
        return VideoFrame.from_ndarray(added(made.to_ndarray(), pattern[..., None]), format="rgb24")
    full = made.format.name.startswith("yuvj") or made.color_range == ColorRange.JPEG
    pattern = stored(mark.pattern(rows, columns, FULL_SPAN if full else LIMITED_SPAN), shown.display_matrix)
    plane = made.planes[0]
    luma = np.frombuffer(bytes(plane), np.uint8).reshape(plane.height, plane.line_size).copy()
    luma[:, : plane.width] = added(luma[:, : plane.width], pattern)
    plane.update(luma.tobytes())
    return made
