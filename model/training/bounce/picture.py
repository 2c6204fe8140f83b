"""Renders the frames of a scene: shaded discs with soft edges over a background gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from model.training.bounce.scene import DISCS, Scene

SATURATION, VALUE = 0.85, 0.9
SHADE = 0.3
"""Darkening of a disc from its centre to its edge."""

FLASH = 0.85
"""Whiteness of a disc in the frame of an impact."""

GLOW = 0.5
"""Brightness next to a flashing disc; it fades out within a radius."""


def render(scene: Scene, frames: Tensor, height: int, width: int) -> Tensor:
    """Render the frame numbers `frames` (batch, count) int64 as (batch, count, 3, height, width) float32 in [-1, 1]."""
    number = frames[:, None, :, None]
    centre = scene.position.gather(2, number.expand(-1, DISCS, -1, 2)).float()
    flash = scene.flash.gather(2, frames[:, None].expand(-1, DISCS, -1))
    across = (torch.arange(width, device=frames.device) + 0.5) / width
    down = (torch.arange(height, device=frames.device) + 0.5) / height
    picture = _background(scene.background.float(), across, down)[:, None].expand(-1, frames.shape[1], -1, -1, -1)
    colour = rgb(scene.degrees.float(), SATURATION, VALUE)
    for disc in range(DISCS):
        x, y = (centre[:, disc, :, axis, None] for axis in (0, 1))
        distance = ((across - x).square()[..., None, :] + (1 - down - y).square()[..., None]).sqrt()[:, :, None]
        radius = scene.motion.radius[:, disc].float().view(-1, 1, 1, 1, 1)
        there = scene.present[:, disc].view(-1, 1, 1, 1, 1)
        lit = flash[:, disc, :, None, None, None] & there
        edge = ((radius - distance) * min(height, width) + 0.5).clamp(0, 1) * there
        shaded = colour[:, disc, None, :, None, None] * (1 - SHADE * (distance / radius).clamp(max=1).square())
        shaded = torch.where(lit, shaded + FLASH * (1 - shaded), shaded)
        glow = GLOW * lit * (2 - distance / radius).clamp(0, 1).square()
        picture = picture + glow * (1 - picture)
        picture = torch.lerp(picture, shaded, edge)
    return picture * 2 - 1


def rgb(degrees: Tensor, saturation: float | Tensor, value: float | Tensor) -> Tensor:
    """Hue in degrees, saturation and value → (…, 3) in [0, 1] (Smith, "Color gamut transform pairs", 1978)."""
    sector = torch.stack([(n + degrees / 60) % 6 for n in (5.0, 3.0, 1.0)], dim=-1)
    share = torch.minimum(sector, 4 - sector).clamp(0, 1)
    if isinstance(saturation, Tensor):
        saturation = saturation[..., None]
    if isinstance(value, Tensor):
        value = value[..., None]
    return value * (1 - saturation * share)


def _background(draws: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """(batch, 3, height, width): a linear gradient between two dim, unsaturated colours."""
    first, second = (rgb(360 * draws[:, k], 0.35 * draws[:, k + 1], 0.12 + 0.28 * draws[:, k + 2]) for k in (0, 3))
    angle = 2 * torch.pi * draws[:, 6].view(-1, 1, 1)
    along = torch.cos(angle) * (across - 0.5) + torch.sin(angle) * (down[:, None] - 0.5)
    share = torch.sigmoid((along + 0.3 * (draws[:, 7].view(-1, 1, 1) - 0.5)) * 6)[:, None]
    return torch.lerp(first[..., None, None], second[..., None, None], share)
