"""Simulates JPEG compression on the device: quantised cosine transforms of 8×8 blocks, without entropy coding.

ITU-T T.81, with the quantisation tables of its annex K scaled by quality as libjpeg does, and chroma at half the
resolution (4:2:0), the default of encoders.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

LUMINANCE = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
CHROMINANCE = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
)  # fmt: skip
TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
"""RGB to YCbCr (JFIF)."""


def jpeg(frames: Tensor, quality: Tensor) -> Tensor:
    """`frames` (batch, 3, height, width) in 0 … 255, rounded to integers, coded at `quality` (batch,) 1 … 100 and
    decoded."""
    height, width = frames.shape[2:]
    padded = F.pad(frames.round().clamp(0, 255), (0, -width % 16, 0, -height % 16), mode="replicate")
    matrix = torch.tensor(TO_YCC, device=frames.device)
    ycc = torch.einsum("ij,bjhw->bihw", matrix, padded)
    luminance = _code(ycc[:, :1] - 128, LUMINANCE, quality) + 128
    colour = F.interpolate(_code(F.avg_pool2d(ycc[:, 1:], 2), CHROMINANCE, quality), scale_factor=2, mode="bilinear")
    ycc = torch.cat([luminance, colour], dim=1)
    rgb = torch.einsum("ij,bjhw->bihw", torch.linalg.inv(matrix.cpu()).to(frames.device), ycc)
    return rgb.round().clamp(0, 255)[:, :, :height, :width]


def _code(plane: Tensor, table: tuple[int, ...], quality: Tensor) -> Tensor:
    """`plane` (batch, planes, height, width) after quantisation of its 8×8 cosine transforms."""
    batch, planes, height, width = plane.shape
    basis = _cosines(plane.device)
    blocks = plane.view(batch, planes, height // 8, 8, width // 8, 8)
    steps = _steps(table, quality).view(batch, 1, 1, 8, 1, 8)
    coefficients = torch.einsum("ux,bphxwy,vy->bphuwv", basis, blocks, basis)
    quantised = (coefficients / steps).round() * steps
    return torch.einsum("ux,bphuwv,vy->bphxwy", basis, quantised, basis).reshape(plane.shape)


def _steps(table: tuple[int, ...], quality: Tensor) -> Tensor:
    """Quantisation steps (batch, 64) at a quality, by libjpeg's rule."""
    quality = quality.float()
    scale = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)
    base = torch.tensor(table, dtype=torch.float32, device=quality.device)
    return ((base * scale[:, None] + 50) / 100).floor().clamp(1, 255)


def _cosines(device: torch.device) -> Tensor:
    """The orthonormal DCT-II of 8 samples, (frequency, sample)."""
    u, x = torch.arange(8.0)[:, None], torch.arange(8.0)
    basis = torch.cos((2 * x + 1) * u * math.pi / 16) / 2
    basis[0] /= math.sqrt(2.0)
    return basis.to(device)
