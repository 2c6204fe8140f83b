"""Motion of a disc in closed form: constant speed sideways, a parabola vertically, elastic reflection at the walls.

Lengths are in frame widths, x to the right and y upwards from the floor, times in seconds. A disc of radius r has its
centre in [r, 1 - r]. Vertical motion is periodic, and the unfolded sideways path is a straight line. Discs pass through
each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

GRAVITY = 6.0
"""Frame widths per second squared."""

RADII = (0.12, 0.18)
"""Frame widths. At 16 pixels the smallest disc is nearly 4 pixels across."""

LOWEST_APEX = 0.3
"""Smallest height of a bounce above the floor. The largest touches the ceiling at zero speed, which is no impact."""

SPEEDS = (0.3, 0.9)
"""Sideways, frame widths per second."""


@dataclass(frozen=True)
class Motion:
    """Motion of discs, float64 tensors (…, discs).

    `apex`: height of the bounce above the floor. `fallen`: seconds since the last floor impact, at time 0. `way`:
    position on the unfolded sideways path, 0 at the left wall, one free width further at the right wall. `speed` ≥ 0
    along it.
    """

    radius: Tensor
    apex: Tensor
    fallen: Tensor
    way: Tensor
    speed: Tensor

    @property
    def period(self) -> Tensor:
        """Seconds from one floor impact to the next."""
        return 2 * (2 * self.apex / GRAVITY).sqrt()

    @property
    def floor_speed(self) -> Tensor:
        """Vertical speed at the floor, frame widths per second."""
        return (2 * GRAVITY * self.apex).sqrt()

    def x(self, times: Tensor) -> Tensor:
        """x at `times`, (times,) or broadcastable to it, as (…, discs, times)."""
        width = (1 - 2 * self.radius)[..., None]
        along = torch.remainder(self.way[..., None] + self.speed[..., None] * times, 2 * width)
        return self.radius[..., None] + width - (along - width).abs()

    def y(self, times: Tensor) -> Tensor:
        """y, likewise."""
        since = torch.remainder(times + self.fallen[..., None], self.period[..., None])
        return self.radius[..., None] + since * (self.floor_speed[..., None] - GRAVITY / 2 * since)

    def floor_impacts(self, duration: float) -> tuple[Tensor, Tensor]:
        """Times (…, discs, events), padded with infinity, and x at each."""
        most = math.ceil(duration / (2 * math.sqrt(2 * LOWEST_APEX / GRAVITY))) + 1
        count = torch.arange(1, most + 1, device=self.apex.device)
        times = count * self.period[..., None] - self.fallen[..., None]
        return _within(times, duration), self.x(times)

    def wall_impacts(self, duration: float) -> tuple[Tensor, Tensor]:
        """The same for the left and right walls."""
        width = 1 - 2 * self.radius
        most = math.ceil(duration * SPEEDS[1] / (1 - 2 * RADII[1])) + 2
        count = torch.arange(1, most + 1, device=self.apex.device)
        # Division by zero speed gives infinity: that disc meets no wall.
        times = (count * width[..., None] - self.way[..., None]) / self.speed[..., None]
        left = (count % 2 == 0).expand_as(times)
        x = torch.where(left, self.radius[..., None], 1 - self.radius[..., None])
        return _within(times, duration), x


def _within(times: Tensor, duration: float) -> Tensor:
    return torch.where((times >= 0) & (times < duration), times, torch.inf)
