"""The region of an edit, as the network sees it and as the picture is blended."""

from __future__ import annotations

from pathlib import Path

import av
import torch
import torch.nn.functional as F
from torch import Tensor

from model.media.opening import MediaError

SOFT = 0.02
"""Width of the soft edge, as a share of the picture's shorter side. It lies inside the region."""


def read_mask(path: str | Path) -> Tensor:
    """(height, width) uint8: how white each pixel of a PNG is. Raises MediaError."""
    with av.open(str(path), format="png_pipe") as container:
        frame = next(container.decode(video=0), None)
    if frame is None:
        raise MediaError("the mask has no picture")
    return torch.from_numpy(frame.to_ndarray(format="gray"))


def rectangle_mask(rectangle: tuple[float, float, float, float], height: int, width: int) -> Tensor:
    """(height, width) float in [0, 1]: how much of each pixel is in `rectangle` (x, y, width, height), in shares."""
    x, y, wide, high = rectangle
    return _covered(y, y + high, height)[:, None] * _covered(x, x + wide, width)[None]


def scaled_mask(mask: Tensor, height: int, width: int) -> Tensor:
    """(height, width) float in [0, 1]: a mask picture (h, w) uint8 at another size."""
    return F.interpolate(mask[None, None].float() / 255, (height, width), mode="area")[0, 0]


def read_scaled_mask(path: str | Path, height: int, width: int) -> Tensor:
    """As `scaled_mask` of `read_mask`. Raises MediaError."""
    return scaled_mask(read_mask(path), height, width)


def soft_edged(mask: Tensor) -> Tensor:
    """`mask` (height, width) in [0, 1] with an edge that falls to 0 where the region ends.

    What is outside stays as it is; the edge of the picture is no edge of the region. A region that is too thin for a
    soft edge keeps its own.
    """
    radius = max(1, round(SOFT * min(mask.shape)))
    whole = mask[None, None].float()
    for axis in (2, 3):  # a box filter, one axis after the other
        margin = (0, 0, radius, radius) if axis == 2 else (radius, radius, 0, 0)
        kernel = torch.full((1, 1, 2 * radius + 1, 1), 1 / (2 * radius + 1))
        whole = F.conv2d(F.pad(whole, margin, mode="replicate"), kernel if axis == 2 else kernel.transpose(2, 3))
    soft = torch.minimum((2 * whole[0, 0] - 1).clamp(0, 1), mask.float())
    return soft if bool((soft > 0.5).any()) else mask.float()


def _covered(first: float, last: float, count: int) -> Tensor:
    """Share of each of `count` cells of the unit interval that [first, last) covers."""
    edges = torch.arange(count + 1, dtype=torch.float64) / count
    covered = (edges[1:].clamp(max=last) - edges[:-1].clamp(min=first)).clamp(min=0) * count
    return covered.float()
