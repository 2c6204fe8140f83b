"""Statistics of spatio-temporal gradients: hand-made features of videos, for distances that need no trained network."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

SIDES = (16, 8)
"""Pixels: heights and widths to which frames are averaged; smaller frames stay as they are."""

ORIENTATIONS = 8
CELLS = 3
"""Cells along each side of the frame."""


def gradient_features(video: Tensor) -> Tensor:
    """(clips, frames, 3, height, width) in [-1, 1] → (clips, features), for two frames or more.

    Mean and standard deviation of each colour, and the saturation in each cell. Then at every size, of brightness: the
    mean lengths of the spatial and of the temporal gradient and the mean products of both (the direction of motion) in
    each cell, the spatial gradient by orientation, and over the frames the standard deviation and the largest value of
    the temporal one. Gradients are differences of neighbours, as in descriptors of oriented gradients (Dalal and
    Triggs, 2005; Kläser et al., 2008).
    """
    if video.shape[1] < 2:
        raise ValueError(f"temporal gradients need at least 2 frames; got {video.shape[1]}")
    video = video.float()
    colours = video.transpose(1, 2).flatten(2)
    saturation = _pooled(video.amax(2) - video.amin(2), CELLS).mean(1).flatten(1)
    columns = [colours.mean(2), colours.std(2), saturation]
    for side in SIDES:
        columns += _at_size(_pooled(video.mean(2), side))
    return torch.cat(columns, dim=1)


def _at_size(grey: Tensor) -> list[Tensor]:
    """Statistics of (clips, frames, height, width)."""
    now = grey[:, 1:]
    change = now - grey[:, :-1]
    across, down = torch.gradient(now, dim=(3, 2))
    length = (across.square() + down.square()).sqrt()
    cells = [_pooled(each, CELLS).mean(1).flatten(1) for each in (length, change.abs(), change * across, change * down)]
    # Opposite directions are one orientation: a bright edge of a disc and a dark one count alike.
    angle = torch.atan2(down, across).remainder(math.pi)
    bin_ = (angle * (ORIENTATIONS / math.pi)).long().clamp(max=ORIENTATIONS - 1)
    oriented = torch.zeros(len(grey), ORIENTATIONS, device=grey.device)
    oriented.scatter_add_(1, bin_.flatten(1), length.flatten(1))
    moving = change.abs().mean((2, 3))
    over_time = torch.stack([moving.std(1, correction=0), moving.amax(1)], dim=1)
    return [*cells, oriented / length[0].numel(), over_time]


def _pooled(value: Tensor, side: int) -> Tensor:
    return adaptive_avg_pool2d(value, (min(side, value.shape[-2]), min(side, value.shape[-1])))
