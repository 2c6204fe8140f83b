"""Primitives of the pictures, for all samples and frames at once: smooth noise, blobs, rings, layers of colour.

Masks and fields are (batch, frames, height, width). Positions are fractions of the frame, x to the right and y down, so
a scene looks the same at every size. Edges are at least one pixel soft.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class View:
    """What to render: `middle` and `end` of each frame's interval in seconds (batch, frames, 1, 1), and the centres of
    the pixels, `x` (width,) and `y` (height, 1). `lattice`: random numbers (batch, 1, depth, rows, columns)."""

    middle: Tensor
    end: Tensor
    x: Tensor
    y: Tensor
    lattice: Tensor

    @property
    def pixel(self) -> float:
        """Height or width of a pixel, the larger one."""
        return 1 / min(self.x.shape[0], self.y.shape[0])

    def age(self, times: Tensor) -> Tensor:
        """Seconds from each of `times` (batch, events) to the end of each frame, (batch, events, frames); negative
        before the event, and in its own frame the first positive value."""
        return self.end[:, None, :, 0, 0] - times[:, :, None]

    def noise(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """Smooth noise in [0, 1] at lattice coordinates that broadcast to (batch, frames, height, width). It is
        reflected at the borders of the lattice."""
        x, y, z = torch.broadcast_tensors(x, y, z)
        depth, rows, columns = self.lattice.shape[2:]
        grid = torch.stack([_eased(x, columns), _eased(y, rows), _eased(z, depth)], dim=-1)
        return grid_sample(self.lattice, grid, padding_mode="reflection", align_corners=True)[:, 0]

    def step(self, distance: Tensor, softness: float = 0.0) -> Tensor:
        """0 … 1 where `distance` goes from negative to positive, over one pixel or `softness`."""
        wide = max(softness, self.pixel)
        return (distance / wide + 0.5).clamp(0, 1)


def _eased(coordinate: Tensor, size: int) -> Tensor:
    """Lattice coordinates as those of grid_sample, eased between the points, so that the noise is smooth."""
    whole = coordinate.floor()
    part = coordinate - whole
    return (whole + part * part * (3 - 2 * part)) * (2 / (size - 1)) - 1


@lru_cache(maxsize=256)
def colour(value: Colour, device: torch.device) -> Tensor:
    """(3, 1, 1)"""
    return torch.tensor(value, device=device)[:, None, None]


def between(first: Colour, second: Colour, share: Tensor) -> Tensor:
    """Colours (batch, 1, 3, 1, 1) for `share` (batch,), or (batch, frames, 3, height, width) for a field."""
    weight = share.view(-1, 1, 1, 1, 1) if share.ndim == 1 else share[:, :, None]
    return torch.lerp(colour(first, share.device), colour(second, share.device), weight)


def paint(picture: Tensor, ink: Tensor | Colour, mask: Tensor) -> Tensor:
    """`picture` (batch, frames, 3, height, width) covered with `ink` where `mask` is 1."""
    if isinstance(ink, tuple):
        ink = colour(ink, mask.device)
    return picture + mask[:, :, None] * (ink - picture)


def distances(view: View, x: Tensor, y: Tensor, flat: float = 1.0) -> Tensor:
    """Distances (batch, events, frames, height, width) to the points (batch, events, frames); vertical ones count
    1 / `flat`."""
    across = view.x - x[..., None, None]
    down = (view.y - y[..., None, None]) / flat
    return (across.square() + down.square()).sqrt()


def blobs(view: View, x: Tensor, y: Tensor, radius: Tensor, weight: Tensor) -> Tensor:
    """Soft round spots of `radius` and `weight` (both broadcastable to (batch, events, frames)), the brightest one
    counts at each pixel. A spot smaller than a pixel is as wide as a pixel, and dimmer."""
    shown = radius.clamp(min=0.6 * view.pixel)
    dim = (radius / shown).square() * weight
    near = torch.exp(-(distances(view, x, y) / shown[..., None, None]).square())
    return (near * dim[..., None, None]).amax(1)


def rings(view: View, x: Tensor, y: Tensor, radius: Tensor, width: float, weight: Tensor, flat: float) -> Tensor:
    """Rings, flattened to `flat` of their width."""
    shown = max(width, 0.6 * view.pixel)
    off = (distances(view, x, y, flat) - radius[..., None, None]) / shown
    return (torch.exp(-off.square()) * weight[..., None, None]).amax(1)


def streaks(view: View, seeds: Tensor, weight: Tensor, speed: Tensor, slant: Tensor, length: float) -> Tensor:
    """Falling streaks. `seeds` (batch, streaks, 3): place, phase and pace of each in [0, 1); `weight` (batch, streaks);
    `speed` frame heights per second and `slant` widths per height, both (batch,)."""
    pace = speed[:, None] * (0.8 + 0.4 * seeds[..., 2])
    travelled = seeds[..., 1, None] + pace[..., None] * view.middle[:, None, :, 0, 0] / (1 + length)
    fallen, turn = travelled.frac(), travelled.floor()
    place = (seeds[..., 0, None] + 0.618 * turn).frac() * (1 + slant.abs()[:, None, None]) - slant.abs()[:, None, None]
    top = fallen * (1 + length) - length
    down = view.y - top[..., None, None]
    across = view.x - place[..., None, None] - slant[:, None, None, None, None] * view.y
    wide = max(0.009, 0.45 * view.pixel)
    along = (down / 0.03).clamp(0, 1) * ((length - down) / 0.03).clamp(0, 1)
    near = torch.exp(-(across / wide).square()) * min(1.0, 0.009 / wide + 0.25)
    return (near * along * weight[..., None, None, None]).amax(1)
