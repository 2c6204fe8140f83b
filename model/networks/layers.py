"""Layers that both networks use.

Activations are kept with channels last: video (batch, frames, height, width, channels), audio (batch, samples,
channels), images (batch, height, width, channels). A 1×1 convolution is then a plain linear map, a 2D convolution sees
its native channels-last layout, and a convolution over frames or samples is a 2D convolution on a view of the same
memory, without a transposition.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from functools import partial
from typing import Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.networks.config import AUDIO_STRIDE, norm_groups
from model.networks.ops.group_norm import group_norm

Layer = TypeVar("Layer", bound=nn.Module)


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Sinusoidal features (batch, dim) of the times `t` (batch,), whole or fractional: cosines, then sines; float32."""
    half = dim // 2
    frequencies = torch.exp(-math.log(10_000) / half * torch.arange(half, dtype=torch.float32, device=t.device))
    angles = t.float()[:, None] * frequencies
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, dim % 2))


class UNet(nn.Module):
    """What both networks have in common: the type that they compute in."""

    input_blocks: nn.ModuleList

    @property
    def dtype(self) -> torch.dtype:
        """The type of convolutions and attention."""
        return next(self.input_blocks.parameters()).dtype

    def to_compute(self, dtype: torch.dtype) -> Self:
        """Compute in `dtype`, except norms, softmax and time embeddings: float32. Casts the weights in place."""
        cast_weights(self, dtype)
        return self


class TimeEmbedding(nn.Sequential):
    """t (batch,) → (batch, width): sinusoids through two linear layers, float32 throughout."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(nn.Linear(channels, width), nn.SiLU(), nn.Linear(width, width))
        self.channels = channels

    def forward(self, t: Tensor) -> Tensor:
        return super().forward(timestep_embedding(t, self.channels))


class TimeProjection(nn.Linear):
    """The time embedding to the scale and shift of one block, float32."""


class GroupNorm(nn.Module):
    """Group normalisation of (batch, …, channels) over everything but the batch, with statistics in float32.

    `modulation` (batch, 2·channels) is the timestep's scale and shift, applied after the affine map: FiLM conditioning.
    """

    def __init__(self, channels: int, groups: int = 32, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.groups = norm_groups(channels, groups)
        self.eps = eps

    def forward(
        self,
        x: Tensor,
        modulation: Tensor | None = None,
        *,
        silu: bool = False,
        skip: Tensor | None = None,
        offset: Tensor | None = None,
        inner: int = 1,
    ) -> Tensor:
        """Arguments as in ops/group_norm.py; `silu` after all of it."""
        return group_norm(
            x, self.weight, self.bias, self.groups, self.eps,
            modulation=modulation, silu=silu, skip=skip, offset=offset, inner=inner,
        )  # fmt: skip


def silu(x: Tensor) -> Tensor:
    """x·sigmoid(x). Overwrites x where no gradient is recorded: callers pass a tensor that they own."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


class PointConv(nn.Linear):
    """1×1 convolution of (…, channels): the same linear map of every token.

    On a CPU with AVX-512 it runs as a convolution over blocks of tokens: oneDNN's kernel is a fifth to a third faster
    than the matrix product of `nn.Linear`, most of all with few channels. Without AVX-512 the product is faster in
    float32 (benchmarks/point_conv.py). With a gradient the convolution would take half as long again, forward and
    backward together, so the product is used.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cpu and not torch.is_grad_enabled() and (has_avx512() or x.dtype != torch.float32):
            return self.by_convolution(x)
        return super().forward(x)

    def by_convolution(self, x: Tensor) -> Tensor:
        """The same map as a convolution over blocks of 64, 32 or 16 tokens; if none divides their number, of all."""
        tokens = x.numel() // self.in_features
        block = math.gcd(tokens, 64)
        if block < 16:
            block = tokens
        planes = x.reshape(-1, block, 1, self.in_features).permute(0, 3, 1, 2)
        y = F.conv2d(planes, self.weight[:, :, None, None], self.bias)
        return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], self.out_features)


@functools.cache
def has_avx512() -> bool:
    """Whether PyTorch uses AVX-512 on this processor."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def joint_linear(linear: PointConv, bias: Tensor, *parts: Tensor) -> Tensor:
    """The linear map of `parts` (…, channels) side by side, plus `bias`: (tokens, out_features). Nothing is copied to
    put them side by side."""
    weights = linear.weight.split([part.shape[-1] for part in parts], dim=1)
    out = torch.addmm(linear.bias + bias, parts[0].flatten(0, -2), weights[0].t())
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        out = out.addmm_(part.flatten(0, -2), weight.t())
    return out


class Conv2d(nn.Conv2d):
    """2D convolution of (batch, height, width, channels)."""

    bias: Tensor

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.weight.data = self.weight.data.contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor, bias: bool = True) -> Tensor:
        """`bias=False` leaves the bias to the caller: on a GPU it is otherwise one more reading and writing of y."""
        y = self._conv_forward(x.permute(0, 3, 1, 2), self.weight, self.bias if bias else None)
        return y.permute(0, 2, 3, 1).contiguous()


class VideoConv(nn.Module):
    """(2+1)D convolution of (batch, frames, height, width, channels): 3×3 in each frame, then 3 over frames."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.spatial = Conv2d(in_channels, out_channels, 3, padding=1)
        self.temporal = Conv2d(out_channels, out_channels, (3, 1), padding=(1, 0))

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps():
            x = step(x)
        return x

    def steps(self, pool: bool = False, bias: bool = True) -> list[Callable[[Tensor], Tensor]]:
        """The operations in order, so that a caller can free each intermediate result early.

        `pool` halves height and width by averaging. The average commutes with the convolution over frames; done first,
        it leaves a quarter of the work. `bias=False` leaves `offset` to the caller.
        """
        return [
            partial(self._in_frames, bias=bias),
            *([pool_video] if pool else []),
            partial(self._over_frames, bias=bias),
        ]

    def offset(self, x: Tensor) -> Tensor:
        """What the biases add to each frame of the result x (batch, frames, …): (1, frames, channels)."""
        frames = self.spatial.bias.view(1, 1, 1, -1).expand(-1, x.shape[1], -1, -1)
        return self.temporal(frames).squeeze(2)

    def _in_frames(self, x: Tensor, bias: bool = True) -> Tensor:
        return self.spatial(x.flatten(0, 1), bias).unflatten(0, x.shape[:2])

    def _over_frames(self, x: Tensor, bias: bool = True) -> Tensor:
        return self.temporal(x.flatten(2, 3), bias).view(x.shape)


class AudioConv(nn.Module):
    """Convolution of (batch, samples, channels), 3 taps `dilation` samples apart."""

    def __init__(self, in_channels: int, out_channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv = Conv2d(in_channels, out_channels, (1, 3), padding=(0, dilation), dilation=(1, dilation))

    def forward(self, x: Tensor, bias: bool = True) -> Tensor:
        return self.conv(x.unsqueeze(1), bias).squeeze(1)

    def steps(self, pool: bool = False, bias: bool = True) -> list[Callable[[Tensor], Tensor]]:
        """As in VideoConv. `pool` averages every four samples."""
        step = partial(self, bias=bias)
        return [step, pool_audio] if pool else [step]

    def offset(self, x: Tensor) -> Tensor:
        """What the bias adds to every sample: (1, 1, channels)."""
        return self.conv.bias.view(1, 1, -1)


def to_video_patches(video: Tensor, patch: int, dtype: torch.dtype | None = None) -> Tensor:
    """(batch, frames, 3, height, width) → (batch, frames, rows, columns, 3·patch²): each square of pixels one token.

    Cast to `dtype` on the way, by default that of `video`."""
    if patch > 1:
        video = F.pixel_unshuffle(video, patch)
    return video.movedim(2, -1).to(dtype or video.dtype, memory_format=torch.contiguous_format)


def from_video_patches(x: Tensor, patch: int) -> Tensor:
    """(batch, frames, 3·patch², rows, columns) → (batch, frames, 3, height, width)."""
    return F.pixel_shuffle(x, patch) if patch > 1 else x


def to_audio_patches(audio: Tensor, patch: int) -> Tensor:
    """(batch, 1, samples) → (batch, samples / patch, patch): each run of samples one token."""
    return audio.reshape(audio.shape[0], -1, patch)


def pool_image(x: Tensor) -> Tensor:
    """(batch, height, width, channels) averaged over squares of 2×2."""
    return F.avg_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1).contiguous()


def pool_video(x: Tensor) -> Tensor:
    """(batch, frames, height, width, channels) averaged over squares of 2×2 in each frame."""
    return pool_image(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def pool_audio(x: Tensor) -> Tensor:
    """(batch, samples, channels) averaged over every four samples."""
    return x.unflatten(1, (-1, AUDIO_STRIDE)).mean(dim=2)


def repeat_image(x: Tensor) -> Tensor:
    """Every pixel of (batch, height, width, channels) twice in both directions."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height, 1, width, 1, channels).expand(-1, -1, 2, -1, 2, -1)
    return x.reshape(batch, 2 * height, 2 * width, channels)


def repeat_video(x: Tensor) -> Tensor:
    """Every pixel of (batch, frames, height, width, channels) twice in both directions."""
    return repeat_image(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def repeat_audio(x: Tensor) -> Tensor:
    """Every sample of (batch, samples, channels) four times."""
    return x.repeat_interleave(AUDIO_STRIDE, dim=1)


def zero_init(module: Layer) -> Layer:
    """Set all parameters to zero: a residual block that ends in such a layer starts training as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def cast_weights(network: nn.Module, dtype: torch.dtype) -> None:
    """Cast the convolutions and linear maps of `network` to `dtype`; norms and time embeddings stay float32."""
    for module in network.children():
        if isinstance(module, FLOAT32):
            module.float()
            continue
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(dtype)
        cast_weights(module, dtype)


FLOAT32 = (GroupNorm, TimeEmbedding, TimeProjection)
"""Modules whose weights are never cast."""
