"""Puts a made picture into a decoded frame, whole or where a mask says so, in the frame's own colours and size."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from model.marking.pictures import PictureMark
from model.media.colour import from_rgb, untagged_matrix
from model.media.content_box import content_box
from model.media.decode import upright_aspect
from model.media.frames import TimedFrame
from model.media.mark_frame import mark_frame
from model.media.orientation import displayed_size, stored

BT601 = (5, 6)
"""ITU-T H.273: its two codes, of which the library knows the first."""


def replaced(
    shown: TimedFrame,
    picture: np.ndarray,
    grid: tuple[int, int],
    alpha: np.ndarray | None,
    mark: PictureMark | None = None,
) -> VideoFrame:
    """The frame of `shown` with `picture` in its place, where `alpha` says so.

    `picture` (h, w, 3) uint8 RGB: what the network made, letter-boxed as in its own `grid` (height, width). `alpha`
    (rows, columns) in [0, 1] of the displayed picture; None is everywhere. RGB stays RGB, YUV becomes 8-bit 4:2:0 in
    the same matrix and range. HDR stays HDR: the picture gets the light of what looks the same in the frame.
    `mark` is added to what is made, before it is blended with what is kept.
    """
    box = content_box(*displayed_size(shown), upright_aspect(shown), *grid).scaled(picture.shape[0] // grid[0])
    inner = picture[box.top : box.top + box.rows, box.left : box.left + box.columns]
    own, matrix = shown.frame, shown.display_matrix
    made = from_rgb(stored(inner, matrix), own)
    share = None if alpha is None else np.ascontiguousarray(stored(alpha, matrix), np.float32)
    if own.format.is_rgb or own.format.has_palette:
        made = made.reformat(own.width, own.height, "rgb24", interpolation=Interpolation.BICUBIC, threads=1)
        if mark is not None:
            made = mark_frame(made, shown, mark)
        if share is None:
            return made
        whole = own.reformat(format="rgb24", threads=1).to_ndarray()
        mixed = _blend(whole, made.to_ndarray(), share[..., None])
        return VideoFrame.from_ndarray(mixed, format="rgb24")
    made = _as_yuv(made, own)
    made.color_primaries, made.color_trc = own.color_primaries, own.color_trc
    if mark is not None:
        made = mark_frame(made, shown, mark)
    if share is None:
        return made
    base = own if own.format.name in ("yuv420p", "yuvj420p") else _converted(own)
    result = VideoFrame(own.width, own.height, base.format.name)
    for number, plane in enumerate(result.planes):
        part = share if number == 0 else _halved(share, plane.height, plane.width)
        mixed = _blend(_pixels(base, number), _pixels(made, number), part)
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        rows[:, : plane.width] = mixed
        plane.update(rows.tobytes())
    result.colorspace, result.color_range = own.colorspace, own.color_range
    result.color_primaries, result.color_trc = own.color_primaries, own.color_trc
    return result


def _as_yuv(made: VideoFrame, own: VideoFrame) -> VideoFrame:
    """RGB → 4:2:0 of the size, matrix and range of `own`."""
    untagged = untagged_matrix(own)
    matrix = own.colorspace if untagged is None else untagged
    full = own.format.name.startswith("yuvj") or own.color_range == ColorRange.JPEG
    return made.reformat(
        own.width,
        own.height,
        "yuvj420p" if own.format.name.startswith("yuvj") else "yuv420p",
        interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP,
        dst_colorspace=Colorspace.ITU601 if matrix in BT601 else matrix,
        dst_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
        threads=1,
    )


def _converted(own: VideoFrame) -> VideoFrame:
    full = own.format.name.startswith("yuvj") or own.color_range == ColorRange.JPEG
    how = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP
    range_ = ColorRange.JPEG if full else own.color_range
    return own.reformat(own.width, own.height, "yuv420p", interpolation=how, dst_color_range=range_, threads=1)


def _pixels(frame: VideoFrame, number: int) -> np.ndarray:
    plane = frame.planes[number]
    return np.frombuffer(bytes(plane), np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]


def _blend(own: np.ndarray, made: np.ndarray, share: np.ndarray) -> np.ndarray:
    return np.rint(own + share * (made.astype(np.float32) - own)).clip(0, 255).astype(np.uint8)


def _halved(share: np.ndarray, height: int, width: int) -> np.ndarray:
    """For chroma, which has a quarter of the pixels."""
    return F.interpolate(torch.from_numpy(share)[None, None], (height, width), mode="area")[0, 0].numpy()
