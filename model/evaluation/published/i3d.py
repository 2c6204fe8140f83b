"""I3D on RGB frames (Carreira & Zisserman, "Quo vadis, action recognition?", 2017), as FVD and KVD use it.

Modules are named as in the weight file `i3d_pretrained_400.pt`, which holds 344 tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 400
"""Classes of Kinetics-400."""

RESOLUTION = 224
"""Height and width of the frames in pixels."""

MIN_FRAMES = 9
"""Frames that leave two behind all strides, which the last average takes."""

MIXED = {
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}
"""Output channels of the six convolutions of each inception block."""

Size = tuple[int, int, int]
"""Frames, height, width."""


class I3D(nn.Module):
    """Logits of Kinetics-400. Stays in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Convolution(3, 64, (7, 7, 7), (2, 2, 2))
        self.Conv3d_2b_1x1 = Convolution(64, 64)
        self.Conv3d_2c_3x3 = Convolution(64, 192, (3, 3, 3))
        channels = 192
        for name, widths in MIXED.items():
            self.add_module(f"Mixed_{name}", Inception(channels, widths))
            channels = widths[0] + widths[2] + widths[4] + widths[5]
        self.logits = Convolution(channels, CLASSES, normalise=False)
        self.eval()

    def forward(self, video: Tensor) -> Tensor:
        """(batch, 3, frames, 224, 224) in [-1, 1] → (batch, 400); at least MIN_FRAMES frames. See `preprocess`."""
        x = self.Conv3d_1a_7x7(video)
        x = max_pool(x, (1, 3, 3), (1, 2, 2))
        x = self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x))
        x = max_pool(x, (1, 3, 3), (1, 2, 2))
        x = self._mixed(x, "3b", "3c")
        x = max_pool(x, (3, 3, 3), (2, 2, 2))
        x = self._mixed(x, "4b", "4c", "4d", "4e", "4f")
        x = max_pool(x, (2, 2, 2), (2, 2, 2))
        x = self._mixed(x, "5b", "5c")
        x = F.avg_pool3d(x, (2, 7, 7), stride=1)
        return self.logits(x).mean((2, 3, 4))

    def _mixed(self, x: Tensor, *names: str) -> Tensor:
        for name in names:
            x = getattr(self, f"Mixed_{name}")(x)
        return x


class Convolution(nn.Module):
    """Convolution, batch norm and ReLU; padded so that a stride of s divides the size by s, rounded up. Without norm it
    has a bias and no ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: Size = (1, 1, 1), stride: Size = (1, 1, 1), normalise: bool = True
    ) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=not normalise)
        if normalise:
            self.bn = nn.BatchNorm3d(outputs)
        self._normalise = normalise

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3d(pad(x, cast(Size, self.conv3d.kernel_size), cast(Size, self.conv3d.stride)))
        return self.bn(x).relu() if self._normalise else x


class Inception(nn.Module):
    """Four branches: 1, 1 → 3, 1 → 3, and a maximum over 3 → 1; kernels in voxels per side."""

    def __init__(self, inputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.b0 = Convolution(inputs, widths[0])
        self.b1a = Convolution(inputs, widths[1])
        self.b1b = Convolution(widths[1], widths[2], (3, 3, 3))
        self.b2a = Convolution(inputs, widths[3])
        self.b2b = Convolution(widths[3], widths[4], (3, 3, 3))
        self.b3b = Convolution(inputs, widths[5])

    def forward(self, x: Tensor) -> Tensor:
        pooled = max_pool(x, (3, 3, 3), (1, 1, 1))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)], 1)


def max_pool(x: Tensor, kernel: Size, stride: Size) -> Tensor:
    """Maximum over a kernel, padded as `pad` does. Its inputs are not negative, so zeros are neutral."""
    return F.max_pool3d(pad(x, kernel, stride), kernel, stride)


def pad(x: Tensor, kernel: Size, stride: Size) -> Tensor:
    """Zeros on both sides, one more at the end where the number is odd: TensorFlow's "SAME"."""
    margins: list[int] = []
    for size, k, s in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        missing = max((math.ceil(size / s) - 1) * s + k - size, 0)
        margins += [missing // 2, missing - missing // 2]
    return F.pad(x, margins) if any(margins) else x


def preprocess(frames: Tensor, resolution: int = RESOLUTION) -> Tensor:
    """(batch, frames, 3, height, width) as bytes → (batch, 3, frames, resolution, resolution) in [-1, 1].

    The shorter side is resized to `resolution`, bilinear without antialiasing, and the middle is kept.
    """
    height, width = frames.shape[-2:]
    scale = resolution / min(height, width)
    size = [resolution if side == min(height, width) else math.ceil(side * scale) for side in (height, width)]
    resized = F.interpolate(frames.flatten(0, 1).float() / 255, size, mode="bilinear", align_corners=False)
    top, left = ((side - resolution) // 2 for side in size)
    cropped = resized[..., top : top + resolution, left : left + resolution]
    return (cropped.unflatten(0, frames.shape[:2]).transpose(1, 2) - 0.5) * 2
