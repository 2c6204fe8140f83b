"""How much moves from frame to frame: optical flow by exhaustive block matching.

The frames are those of toys: discs that move by up to a third of the frame from one to the next, and flash. Flow that
follows gradients loses them there; a search of all displacements does not.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, pad

SIDE = 16
"""Pixels: larger frames are averaged down to that."""

REACH = 5
"""Pixels of SIDE in each direction that are searched."""

BLOCK = 3
"""Pixels across, of the blocks that are compared."""

STILL = 0.002
"""For each pixel of displacement, what it must gain in mean squared difference: where nothing is to be seen, nothing
moves."""


def motion(video: Tensor) -> Tensor:
    """(clips, frames, 3, height, width) in [-1, 1] → (clips, frames): the mean length of the flow from the frame
    before, in widths of the frame; 0 in the first."""
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
