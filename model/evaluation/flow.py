"""Optical flow between consecutive frames, by exhaustive block matching.

Discs move by up to a third of the frame at once, and flash. Gradient-based flow loses them; a search of all
displacements does not.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, pad

SIDE = 16
"""Pixels; larger frames are averaged down to this size."""

REACH = 5
"""Largest displacement searched in each direction, in pixels of the reduced frame."""

BLOCK = 3
"""Width of the compared blocks in pixels."""

STILL = 0.002
"""Penalty in mean squared difference per pixel of displacement, so that flat areas do not move."""


def motion(video: Tensor) -> Tensor:
    """(clips, frames, 3, height, width) in [-1, 1] → (clips, frames): mean length of the flow from the previous
    frame, in frame widths; 0 in the first."""
    clips, frames = video.shape[:2]
    grey = (video.float().mean(2) + 1) / 2
    small = adaptive_avg_pool2d(grey, (min(SIDE, grey.shape[-2]), min(SIDE, grey.shape[-1])))
    before, now = small[:, :-1], small[:, 1:]
    around = pad(before, (REACH,) * 4, mode="replicate")
    height, width = now.shape[-2:]
    best = torch.full_like(now, torch.inf)
    length = torch.zeros_like(now)
    sideways = torch.arange(-REACH, REACH + 1, device=video.device)
    for down in range(2 * REACH + 1):
        rows = around[..., down : down + height, :]
        shifted = torch.stack([rows[..., across : across + width] for across in range(2 * REACH + 1)], dim=1)
        moved = (sideways.square() + (down - REACH) ** 2).sqrt()
        difference = (now[:, None] - shifted).square()
        cost = avg_pool2d(difference.flatten(0, 1), BLOCK, 1, BLOCK // 2, count_include_pad=False)
        cost, which = (cost.view_as(difference) + STILL * moved.view(1, -1, 1, 1, 1)).min(1)
        length = torch.where(cost < best, moved[which] / width, length)
        best = torch.minimum(cost, best)
    return pad(length.mean((-2, -1)), (1, 0)).view(clips, frames)
