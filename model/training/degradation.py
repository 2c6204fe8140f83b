"""Degradation of super-resolution's inputs: frames are downscaled and degraded to resemble a base model's output.

As in the published code (image_datasets): half get Gaussian noise, half go through JPEG. All on the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from model.training.configuration import DegradationConfig
from model.training.jpeg import jpeg


@dataclass(frozen=True)
class Degradation:
    """Parameters (batch,): `cubic` or bilinear, noise of `sigma` in 0 … 1 of full scale, JPEG of `quality`; 0 turns the
    noise or JPEG off."""

    downscale: str
    factor: int
    cubic: Tensor
    sigma: Tensor
    quality: Tensor
    noise: Tensor

    def apply(self, large: Tensor, rows: slice) -> Tensor:
        """The small frames for `rows` of the batch, from their large frames (rows, 3, height, width) in [-1, 1]."""
        small = self._smaller(large, rows)
        per_frame = (-1, 1, 1, 1)
        small = small + self.sigma[rows].view(per_frame) * self.noise[rows]
        quality = self.quality[rows]
        coded = jpeg((small + 1) * 127.5, quality.clamp(min=1)) / 127.5 - 1
        return torch.where((quality > 0).view(per_frame), coded, small)

    def _smaller(self, large: Tensor, rows: slice) -> Tensor:
        size = (large.shape[2] // self.factor, large.shape[3] // self.factor)
        if self.downscale == "area":
            return F.interpolate(large, size, mode="area")
        resized = {
            mode: F.interpolate(large, size, mode=mode, antialias=True)
            for mode in ("bilinear", "bicubic")
            if self.downscale in (mode, "random")
        }
        if self.downscale != "random":
            return resized[self.downscale]
        return torch.where(self.cubic[rows].view(-1, 1, 1, 1), resized["bicubic"], resized["bilinear"])


def draw_degradation(
    config: DegradationConfig, batch: int, small: tuple[int, int], factor: int, generator: torch.Generator
) -> Degradation:
    """Draw the degradation of each frame of a batch; `small` is (height, width) after downscaling."""
    device = generator.device
    u = torch.rand(5, batch, generator=generator, device=device)
    low, high = config.jpeg_quality
    return Degradation(
        downscale=config.downscale,
        factor=factor,
        cubic=u[0] < 0.5,
        sigma=torch.where(u[1] < config.noise_probability, u[2] * config.noise_sigma / 127.5, 0.0),
        quality=torch.where(u[3] < config.jpeg_probability, (low + u[4] * (high + 1 - low)).floor().clamp(max=high), 0),
        noise=torch.randn(batch, 3, *small, generator=generator, device=device),
    )
