"""Previews of unfinished clips, small enough to be sent every few steps: a WebP sprite and a waveform.

They are encoded on the CPU beside the model, so speed matters more than quality: WebP's fastest method, and a coarser
second run only if the first result is too large, as with noise.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.jobs.events import Preview, Sprite

FEW_FRAMES, MOST_FRAMES = 16, 64
"""Frames of a clip of one window, and those that are shown of a long one."""

COLUMNS, MORE_COLUMNS = 4, 8
"""Frames side by side: few, or more than that."""

LONGEST_SIDE, SHORTER_SIDE = 64, 32
"""Pixels of a frame, of few and of more, so that both make sprites of one size. Larger frames are scaled down."""

BUCKETS = 160
"""Number of minimum-maximum pairs of a waveform."""

LARGEST = 20 * 1024
"""Maximum bytes of a sprite. If no quality reaches it, there is no sprite."""

_QUALITIES = (60, 30, 5, 0)


def preview(
    frames: NDArray[np.uint8] | None,
    audio: NDArray[np.floating] | None,
    *,
    index: int,
    stage: str,
    step: int,
    total_steps: int,
) -> Preview:
    """The preview of output `index` after `step` of `total_steps` in `stage`.

    `frames` (frames, height, width, 3), 0 … 255; `audio` (samples,), shown clipped to [-1, 1]. The modality that the
    user uploaded is None.
    """
    return Preview(
        index,
        stage,
        step,
        total_steps,
        None if frames is None else sprite(frames),
        None if audio is None else waveform(audio),
    )


def sprite(frames: NDArray[np.uint8]) -> Sprite | None:
    """Frames (frames, height, width, 3) in one picture, row by row; None if no quality makes it small enough."""
    count, height, width, _ = frames.shape
    if count > MOST_FRAMES:  # evenly spaced, including the first and the last
        frames = frames[np.linspace(0, count - 1, MOST_FRAMES).round().astype(int)]
        count = MOST_FRAMES
    columns = min(COLUMNS if count <= FEW_FRAMES else MORE_COLUMNS, count)
    side = LONGEST_SIDE if count <= FEW_FRAMES else SHORTER_SIDE
    rows = -(-count // columns)
    sheet = np.zeros((rows * columns, height, width, 3), np.uint8)
    sheet[:count] = frames
    sheet = sheet.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, columns * width, 3)
    picture = Image.fromarray(sheet)
    scale = min(1.0, side / max(height, width))
    if scale < 1:
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
        picture = picture.resize((columns * width, rows * height), Image.Resampling.BOX)
    for quality in _QUALITIES:
        file = io.BytesIO()
        picture.save(file, "WEBP", quality=quality, method=0)
        if file.tell() <= LARGEST:
            return Sprite(file.getvalue(), columns, rows, count, width, height)
    return None


def waveform(audio: NDArray[np.floating]) -> tuple[tuple[float, float], ...]:
    """Minimum and maximum of each of BUCKETS equal parts of `audio` (samples,), rounded to visible precision."""
    bounded = np.clip(np.nan_to_num(audio.astype(np.float64)), -1.0, 1.0)
    edges = np.linspace(0, len(bounded), BUCKETS + 1).astype(int)
    # With fewer samples than buckets, samples repeat.
    starts = np.minimum(edges[:-1], len(bounded) - 1)
    low = np.minimum.reduceat(bounded, starts)
    high = np.maximum.reduceat(bounded, starts)
    return tuple(zip(low.round(3).tolist(), high.round(3).tolist(), strict=True))
