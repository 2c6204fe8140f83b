"""How a disc moves: straight on sideways, a parabola up and down, mirrored at the walls. All of it in closed form.

Lengths are in widths of the frame, x to the right and y upwards from the floor, times in seconds. A disc of radius r
has its centre in [r, 1 - r]. Walls are elastic, so up and down repeats with one period, and sideways the unfolded way
is a straight line. Discs pass through each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

GRAVITY = 6.0
"""Widths a second squared."""

RADII = (0.12, 0.18)
"""At 16 pixels still a disc, nearly 4 pixels across."""

LOWEST_APEX = 0.3
"""How far above the floor a disc rises at least. At most it touches the ceiling, with no speed left: no impact."""

SPEEDS = (0.3, 0.9)
"""Sideways, widths a second."""


@dataclass(frozen=True)
class Motion:
    """Of every disc, float64 tensors of one shape (…, discs).

    `apex`: the height above the floor that is reached. `fallen`: seconds since the floor was last left, at time 0.
    `way`: where on the unfolded way, 0 at the left wall, one free width on at the right one. `speed` ≥ 0 along it.
    """

    radius: Tensor
    apex: Tensor
    fallen: Tensor
    way: Tensor
    speed: Tensor

    @property
    def period(self) -> Tensor:
        """Seconds from one impact on the floor to the next."""
        return 2 * (2 * self.apex / GRAVITY).sqrt()

    @property
    def floor_speed(self) -> Tensor:
        """Widths a second, at the floor."""
        return (2 * GRAVITY * self.apex).sqrt()

    def x(self, times: Tensor) -> Tensor:
        """(…, discs, times) at `times`, (times,) or what can be broadcast to that."""
        width = (1 - 2 * self.radius)[..., None]
        along = torch.remainder(self.way[..., None] + self.speed[..., None] * times, 2 * width)
        return self.radius[..., None] + width - (along - width).abs()

    def y(self, times: Tensor) -> Tensor:
        """The same."""
        since = torch.remainder(times + self.fallen[..., None], self.period[..., None])
        return self.radius[..., None] + since * (self.floor_speed[..., None] - GRAVITY / 2 * since)

    def floor_impacts(self, duration: float) -> tuple[Tensor, Tensor]:
        """Times (…, discs, events), infinite where there is no further one, and the x there."""
        most = math.ceil(duration / (2 * math.sqrt(2 * LOWEST_APEX / GRAVITY))) + 1
        count = torch.arange(1, most + 1, device=self.apex.device)
        times = count * self.period[..., None] - self.fallen[..., None]
        return _within(times, duration), self.x(times)

    def wall_impacts(self, duration: float) -> tuple[Tensor, Tensor]:
        """The same at the walls to the left and the right."""
        width = 1 - 2 * self.radius
        most = math.ceil(duration * SPEEDS[1] / (1 - 2 * RADII[1])) + 2
        count = torch.arange(1, most + 1, device=self.apex.device)
        # A disc that does not move sideways meets no wall: its time is infinite.
        times = (count * width[..., None] - self.way[..., None]) / self.speed[..., None]
        left = (count % 2 == 0).expand_as(times)
        x = torch.where(left, self.radius[..., None], 1 - self.radius[..., None])
        return _within(times, duration), x


def _within(times: Tensor, duration: float) -> Tensor:
    return torch.where((times >= 0) & (times < duration), times, torch.inf)
