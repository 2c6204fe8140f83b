"""The super-resolution U-Net: guided-diffusion's upsampler (Dhariwal & Nichol, 2021) without class labels.

Frame by frame, it denoises a large frame next to the small one, bilinearly enlarged. Stages and layers are numbered as
in published checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.networks import ops
from model.networks.attention import SelfAttention
from model.networks.config import SRConfig
from model.networks.layers import (
    Conv2d,
    GroupNorm,
    PointConv,
    TimeEmbedding,
    TimeProjection,
    UNet,
    joint_linear,
    pool_image,
    repeat_image,
    silu,
    zero_init,
)
from model.networks.ops.add_bias import add_bias


class SRUNet(UNet):
    """Predicts `config.prediction` (the noise, as published) for noisy large frames, and the logits of the variance if
    `config.learn_sigma`."""

    def __init__(self, config: SRConfig) -> None:
        super().__init__()
        self.config = config
        self.time_embed = TimeEmbedding(config.channels, 4 * config.channels)
        self.input_blocks, self.middle_block, self.output_blocks = _build_stages(config)
        self.out = Head(config)

    def upsample(self, low_res: Tensor) -> Tensor:
        """Small frames (N, 3, h, w), bilinearly enlarged by `config.factor`."""
        return F.interpolate(low_res, scale_factor=self.config.factor, mode="bilinear")

    def forward(self, x: Tensor, low_res: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        """The noise in `x` (N, 3, H, W) and its variance logits (N, 3, H, W) or None, float32.

        `low_res` are the small frames (N, 3, h, w), or those already enlarged by `upsample`, which is constant over a
        chain. `t` (N,) are times of the 1000-step schedule, whole or fractional.

        Raises ValueError, naming the numbers, for inputs that do not fit.
        """
        self._check(x, low_res, t)
        if low_res.shape != x.shape:
            low_res = self.upsample(low_res)
        emb = silu(self.time_embed(t))
        patches = [F.pixel_unshuffle(frames, self.config.patch).permute(0, 2, 3, 1) for frames in (x, low_res)]
        h = torch.cat([part.to(self.dtype) for part in patches], dim=-1).contiguous()
        skips = []
        for stage in self.input_blocks:
            h = _run(stage, h, emb)
            skips.append(h)
        h = _run(self.middle_block, h, emb)
        for stage in self.output_blocks:
            h = _run(stage, h, emb, skips.pop())
        out = F.pixel_shuffle(self.out(h).permute(0, 3, 1, 2), self.config.patch).float()
        return out[:, :3], out[:, 3:] if self.config.learn_sigma else None

    def _check(self, x: Tensor, low_res: Tensor, t: Tensor) -> None:
        stride, factor = self.config.stride, self.config.factor
        if x.dim() != 4 or x.shape[1] != 3 or x.shape[2] % stride or x.shape[3] % stride:
            raise ValueError(
                f"frames must be (N, 3, height, width) with sides divisible by {stride}; got {tuple(x.shape)}"
            )
        small = (*x.shape[:2], x.shape[2] // factor, x.shape[3] // factor)
        if low_res.shape != x.shape and tuple(low_res.shape) != small:
            raise ValueError(
                f"low_res for frames {tuple(x.shape)} must be {small}, or already enlarged; got {tuple(low_res.shape)}"
            )
        if t.shape != x.shape[:1]:
            raise ValueError(f"t must have the shape ({x.shape[0]},), one time for each frame; got {tuple(t.shape)}")


class ResBlock(nn.Module):
    """Norm, SiLU, 3×3 convolution, norm with the time, SiLU, 3×3 convolution, on (N, height, width, channels).

    Unlike in the coupled network, a change of scale (`resample` "down" or "up") comes before the first convolution.
    """

    def __init__(self, config: SRConfig, in_channels: int, out_channels: int, resample: str | None = None) -> None:
        super().__init__()
        self.scale_shift_norm = config.scale_shift_norm
        self.resample = {"down": pool_image, "up": repeat_image, None: None}[resample]
        self.norm_in = GroupNorm(in_channels, config.norm_groups)
        self.conv_in = Conv2d(in_channels, out_channels, 3, padding=1)
        self.emb = TimeProjection(4 * config.channels, (1 + config.scale_shift_norm) * out_channels)
        self.norm_out = GroupNorm(out_channels, config.norm_groups)
        self.dropout = nn.Dropout(config.dropout)
        self.conv_out = zero_init(Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = PointConv(in_channels, out_channels) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor, skip: Tensor | None = None) -> Tensor:
        """`skip`: a skip connection, further channels of x."""
        fused = ops.fused(x)
        if skip is not None and not fused:
            x, skip = torch.cat([x, skip], dim=-1), None
        h = self.norm_in(x, silu=True, skip=skip)
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.conv_in(h, bias=not fused)
        emb = self.emb(emb)
        offset = self.conv_in.bias[None, None] if fused else None
        if self.scale_shift_norm:
            h = self.norm_out(h, emb, silu=True, offset=offset)
        else:
            time = emb.to(h.dtype).unsqueeze(1)
            h = self.norm_out(h, silu=True, offset=time if offset is None else time + offset)
        h = self.dropout(h)
        if not fused:
            return self.skip(x) + self.conv_out(h)
        h, bias = self.conv_out(h, bias=False), self.conv_out.bias
        if not isinstance(self.skip, PointConv):
            return add_bias(x, h, bias)
        out = joint_linear(self.skip, bias, *([x] if skip is None else [x, skip]))
        return out.add_(h.flatten(0, -2)).view(h.shape)


class Head(nn.Module):
    """Norm, SiLU and a 3×3 convolution to the output channels of each pixel of a patch."""

    def __init__(self, config: SRConfig) -> None:
        super().__init__()
        channels = config.channel_mult[0] * config.channels
        self.norm = GroupNorm(channels, config.norm_groups)
        self.conv = zero_init(Conv2d(channels, config.out_channels * config.patch**2, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(x, silu=True))


def _run(stage: nn.Module, h: Tensor, emb: Tensor, skip: Tensor | None = None) -> Tensor:
    for layer in stage.children():
        if isinstance(layer, ResBlock):
            h, skip = layer(h, emb, skip), None
        elif isinstance(layer, SelfAttention):
            h = layer(h.flatten(1, 2)).view(h.shape)
        else:
            h = layer(h)
    return h


def _build_stages(config: SRConfig) -> tuple[nn.ModuleList, nn.ModuleList, nn.ModuleList]:
    """Input, middle and output stages. Every stage is a list of layers and, going down, leaves a skip connection."""

    def block(in_channels: int, out_channels: int, scale: int) -> list[nn.Module]:
        layers: list[nn.Module] = [ResBlock(config, in_channels, out_channels)]
        if scale in config.attention_scales:
            layers.append(SelfAttention(out_channels, config.heads, True, config.norm_groups))
        return layers

    width = config.channel_mult[0] * config.channels
    inputs, skip_widths = [nn.ModuleList([Conv2d(6 * config.patch**2, width, 3, padding=1)])], [width]
    for scale, mult in zip(config.scales, config.channel_mult, strict=True):
        for _ in range(config.res_blocks):
            inputs.append(nn.ModuleList(block(width, mult * config.channels, scale)))
            width = mult * config.channels
            skip_widths.append(width)
        if scale != config.scales[-1]:
            inputs.append(nn.ModuleList([ResBlock(config, width, width, "down")]))
            skip_widths.append(width)

    attention = SelfAttention(width, config.heads, True, config.norm_groups)
    middle = [ResBlock(config, width, width), attention, ResBlock(config, width, width)]

    outputs = []
    for scale, mult in reversed(list(zip(config.scales, config.channel_mult, strict=True))):
        for i in range(config.res_blocks + 1):
            layers = block(width + skip_widths.pop(), mult * config.channels, scale)
            width = mult * config.channels
            if i == config.res_blocks and scale != 1:
                layers.append(ResBlock(config, width, width, "up"))
            outputs.append(nn.ModuleList(layers))
    return nn.ModuleList(inputs), nn.ModuleList(middle), nn.ModuleList(outputs)
