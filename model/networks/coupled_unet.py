"""The coupled U-Net of MM-Diffusion (Ruan et al., CVPR 2023, section 3): one network for video and audio.

Two U-Nets of the same layout run side by side, (2+1)D convolutions and self-attention on video, dilated convolutions on
audio, tied together by RS-MMA blocks (attention.py). Stages and layers are numbered as in published checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.networks import ops
from model.networks.attention import CrossModalAttention, SelfAttention
from model.networks.config import MODALITIES, UNetConfig
from model.networks.layers import (
    AudioConv,
    Conv2d,
    GroupNorm,
    PointConv,
    TimeEmbedding,
    TimeProjection,
    UNet,
    VideoConv,
    from_video_patches,
    joint_linear,
    pool_audio,
    pool_video,
    repeat_audio,
    repeat_video,
    silu,
    to_audio_patches,
    to_video_patches,
    zero_init,
)
from model.networks.pair import Pair
from model.networks.text import TextAttention, TextTokens, TextTrunk

Widths = tuple[int, int]
"""Channels in and out."""


class CoupledUNet(UNet):
    """Predicts `config.prediction` (the noise, as published) for a noisy clip. A new network has zero residual
    branches, as at the start of training."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.time_embed = TimeEmbedding(config.channels, config.channels)
        self.text = TextTrunk(config) if config.text is not None else None
        self.input_blocks, self.middle_blocks, self.output_blocks = _build_stages(config)
        width = config.channel_mult[0] * config.channels
        self.video_out = VideoHead(width, config) if "video" in config.modalities else None
        self.audio_out = AudioHead(width, config) if "audio" in config.modalities else None

    def forward(
        self,
        x: Pair,
        t: Pair,
        shifts: Tensor | None = None,
        coupled: bool = True,
        text: TextTokens | None = None,
    ) -> Pair:
        """The prediction for `x`, noise as published or whatever `config.prediction` names: same shapes, float32.

        `x` is video (batch, frames, 3, height, width) and audio (batch, 1, samples). `t` holds the times (batch,) of
        each in the 1000-step schedule, whole or fractional. A modality that is not in `config.modalities` is None in
        both and in the prediction. `shifts` (batch, blocks) are the RS-MMA window shifts in frames, one for each sample
        and each of `config.block_windows`; None is zero. `coupled=False` skips RS-MMA, so each modality is predicted
        without the other. `text` are the captions, for a network with `config.text`; None is none for any sample.

        Raises ValueError, naming the numbers, for inputs that do not fit. Shifts that are already on a GPU are not
        checked: reading them back would stall it.
        """
        self._check(x, t, shifts)
        words, emb = None, t.map(self.time_embed)
        if self.text is not None:
            words, term = self.text(text, next(value.shape[0] for value in x if value is not None))
            emb = emb.map(lambda value: value + term)
        elif text is not None:
            raise ValueError("this network takes no text")
        emb = emb.map(silu)
        h = Pair(
            None if x.video is None else to_video_patches(x.video, self.config.video_patch, self.dtype),
            None if x.audio is None else to_audio_patches(x.audio, self.config.audio_patch).to(self.dtype),
        )
        blocks = len(self.config.block_windows)
        if shifts is not None and not self.config.window_shift:
            shifts = None  # all are zero
        shift = iter([None] * blocks if shifts is None else shifts.to(next(self.parameters()).device).unbind(1))

        def run(stage: nn.Module, h: Pair, skip: Pair | None = None) -> Pair:
            for layer in stage.children():
                if not isinstance(layer, CrossModalAttention):
                    h, skip = (layer(h, emb, words) if skip is None else layer(h, emb, words, skip)), None
                elif coupled:
                    h = layer(h, None if layer.window is None else next(shift))
            return h

        skips = []
        for stage in self.input_blocks:
            h = run(stage, h)
            skips.append(h)
        h = run(self.middle_blocks, h)
        for stage in self.output_blocks:
            h = run(stage, h, skips.pop())
        return Pair(
            None if self.video_out is None else self.video_out(h.video).float(),
            None if self.audio_out is None else self.audio_out(h.audio).float(),
        )

    def _check(self, x: Pair, t: Pair, shifts: Tensor | None) -> None:
        config = self.config
        for name, value, time in zip(MODALITIES, x, t, strict=True):
            if (value is not None, time is not None) != (name in config.modalities,) * 2:
                raise ValueError(
                    f"this network denoises {' and '.join(config.modalities)}: {name} and t_{name} must be "
                    f"{'given' if name in config.modalities else 'None'}"
                )
            if value is not None and time is not None and time.shape != value.shape[:1]:
                raise ValueError(
                    f"t_{name} must have the shape ({value.shape[0]},), one time for each sample; "
                    f"got {tuple(time.shape)}"
                )
        video, audio = x
        stride = config.video_stride
        if video is not None and (video.dim() != 5 or video.shape[2] != 3 or any(n % stride for n in video.shape[3:])):
            raise ValueError(
                f"video must be (batch, frames, 3, height, width) with sides divisible by {stride}; "
                f"got {tuple(video.shape)}"
            )
        stride = config.audio_stride
        if audio is not None and (audio.dim() != 3 or audio.shape[1] != 1 or audio.shape[2] % stride):
            raise ValueError(
                f"audio must be (batch, 1, samples) with samples divisible by {stride}; got {tuple(audio.shape)}"
            )
        if video is None or audio is None:
            return
        batch, frames = video.shape[:2]
        if audio.shape[0] != batch:
            raise ValueError(f"a batch of {batch} videos does not match a batch of {audio.shape[0]} sounds")
        config.check_coupling(frames, audio.shape[2])
        if shifts is not None:
            self._check_shifts(shifts, batch, frames)

    def _check_shifts(self, shifts: Tensor, batch: int, frames: int) -> None:
        limits = self.config.max_shifts(frames)
        if tuple(shifts.shape) != (batch, len(limits)):
            raise ValueError(f"shifts must be (batch, blocks) = {(batch, len(limits))}; got {tuple(shifts.shape)}")
        if shifts.is_cpu:
            wrong = (shifts < 0) | (shifts > torch.tensor(limits))
            if wrong.any():
                sample, block = wrong.nonzero()[0].tolist()
                raise ValueError(
                    f"the shift of block {block} must be 0 … {limits[block]} frames; got {shifts[sample, block].item()}"
                )


class Stem(nn.Module):
    """The first layer: the values of a patch, 3 of video and 1 of audio as published, to the width of the network."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        width = config.channel_mult[0] * config.channels
        self.video = VideoConv(3 * config.video_patch**2, width) if "video" in config.modalities else None
        self.audio = AudioConv(config.audio_patch, width) if "audio" in config.modalities else None

    def forward(self, x: Pair, emb: Pair, words: TextTokens | None) -> Pair:
        return Pair(
            None if self.video is None else self.video(x.video),
            None if self.audio is None else self.audio(x.audio),
        )


class ResBlock(nn.Module):
    """A residual block of each modality. The projection of the time embedding is one map, used by both.

    `attends` names the modalities with self-attention. `resample` is "down" or "up" where the block changes the scale.
    `text`: both modalities then attend to the caption.
    """

    def __init__(
        self,
        config: UNetConfig,
        widths: Widths,
        dilation: int,
        attends: Collection[str] = (),
        resample: str = "",
        text: bool = False,
    ) -> None:
        super().__init__()
        self.emb = TimeProjection(config.channels, (1 + config.scale_shift_norm) * widths[1])
        self.video = self.audio = None
        if "video" in config.modalities:
            self.video = VideoBranch(config, widths, "video" in attends, resample)
        if "audio" in config.modalities:
            self.audio = AudioBranch(config, widths, dilation, "audio" in attends, resample)
        self.text = TextAttention(config, widths[1]) if text else None

    def forward(self, x: Pair, emb: Pair, words: TextTokens | None, skip: Pair | None = None) -> Pair:
        beside = Pair(None, None) if skip is None else skip
        h = Pair(
            None if self.video is None else self.video(x.video, self.emb(emb.video), beside.video),
            None if self.audio is None else self.audio(x.audio, self.emb(emb.audio), beside.audio),
        )
        return h if self.text is None else self.text(h, words)


class Branch(nn.Module):
    """One modality of a residual block: norm, SiLU, convolution, norm with the time, SiLU, 1×1 convolution.

    The scale changes after the convolution. Going up, pixels are repeated last: norms over the whole clip and maps of
    single pixels commute with the repetition (so dropout falls on all repetitions of a pixel).
    """

    pool: Callable[[Tensor], Tensor]
    repeat: Callable[[Tensor], Tensor]

    def __init__(self, config: UNetConfig, conv: VideoConv | AudioConv, widths: Widths, resample: str) -> None:
        super().__init__()
        in_channels, out_channels = widths
        self.scale_shift_norm, self.resample = config.scale_shift_norm, resample
        self.norm_in = GroupNorm(in_channels, config.norm_groups)
        self.conv_in = conv
        self.norm_out = GroupNorm(out_channels, config.norm_groups)
        self.dropout = nn.Dropout(config.dropout)
        self.conv_out = zero_init(PointConv(out_channels, out_channels))
        self.skip = PointConv(in_channels, out_channels) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor, skip: Tensor | None = None) -> Tensor:
        """`skip`: a skip connection, further channels of x."""
        fused = ops.fused(x)
        if skip is not None and not fused:
            x, skip = torch.cat([x, skip], dim=-1), None
        h = self.norm_in(x, silu=True, skip=skip)
        for step in self.conv_in.steps(pool=self.resample == "down", bias=not fused):
            h = step(h)
        offset = self.conv_in.offset(h) if fused else None
        if self.scale_shift_norm:
            h = self.norm_out(h, emb, silu=True, offset=offset)
        else:
            time = emb.to(h.dtype).unsqueeze(1)
            h = self.norm_out(h, silu=True, offset=time if offset is None else time + offset)
        h = self.dropout(h)
        if self.resample == "down":
            x = self.pool(x)
        x = self._add_fused(x, skip, h) if fused else self.skip(x) + self.conv_out(h)
        return self.repeat(x) if self.resample == "up" else x

    def _add_fused(self, x: Tensor, skip: Tensor | None, h: Tensor) -> Tensor:
        """The sum of both branches. Matrix products add what they map to the sum, which is then not read once more."""
        weight, bias, tokens = self.conv_out.weight, self.conv_out.bias, h.flatten(0, -2)
        if isinstance(self.skip, PointConv):
            out = joint_linear(self.skip, bias, *([x] if skip is None else [x, skip])).addmm_(tokens, weight.t())
        else:
            out = torch.addmm(bias, tokens, weight.t()).add_(x.flatten(0, -2))
        return out.view(h.shape)


class VideoBranch(Branch):
    """Video (batch, frames, height, width, channels); attention first in each frame, then over frames at each pixel."""

    pool, repeat = staticmethod(pool_video), staticmethod(repeat_video)

    def __init__(self, config: UNetConfig, widths: Widths, attention: bool, resample: str) -> None:
        super().__init__(config, VideoConv(*widths), widths, resample)
        self.spatial_attention = self.temporal_attention = None
        if attention:
            self.spatial_attention = SelfAttention(widths[1], config.heads, norm_groups=config.norm_groups)
            self.temporal_attention = SelfAttention(widths[1], config.heads, norm_groups=config.norm_groups)

    def forward(self, x: Tensor, emb: Tensor, skip: Tensor | None = None) -> Tensor:
        x = super().forward(x, emb, skip)
        if self.spatial_attention is None or self.temporal_attention is None:
            return x
        batch, frames, height, width, _ = x.shape
        x = self.spatial_attention(x.view(batch * frames, height * width, -1))
        x = self.temporal_attention.over_frames(x.view(batch, frames, height * width, -1))
        return x.view(batch, frames, height, width, -1)


class AudioBranch(Branch):
    """Audio (batch, samples, channels)."""

    pool, repeat = staticmethod(pool_audio), staticmethod(repeat_audio)

    def __init__(self, config: UNetConfig, widths: Widths, dilation: int, attention: bool, resample: str) -> None:
        super().__init__(config, AudioConv(*widths, dilation), widths, resample)
        self.attention = None
        if attention:
            self.attention = SelfAttention(widths[1], config.heads, norm_groups=config.norm_groups)

    def forward(self, x: Tensor, emb: Tensor, skip: Tensor | None = None) -> Tensor:
        x = super().forward(x, emb, skip)
        return x if self.attention is None else self.attention(x)


class VideoHead(nn.Module):
    """Norm, SiLU and a 3×3×3 convolution to the pixels of a patch; returns (batch, frames, 3, height, width)."""

    def __init__(self, channels: int, config: UNetConfig) -> None:
        super().__init__()
        self.patch = config.video_patch
        self.norm = GroupNorm(channels, config.norm_groups)
        self.conv = zero_init(nn.Conv3d(channels, 3 * self.patch**2, 3, padding=1))
        self.conv.weight.data = self.conv.weight.data.contiguous(memory_format=torch.channels_last_3d)

    def forward(self, x: Tensor) -> Tensor:
        assert self.conv.bias is not None
        batch, frames, height, width, _ = x.shape
        x = self.norm(x, silu=True).flatten(0, 1).permute(0, 3, 1, 2)
        # The kernel's three slices in time as one 2D convolution, each slice then added to the frame it belongs to.
        taps = self.conv.weight.transpose(1, 2).flatten(0, 1)
        parts = F.conv2d(x, taps, padding=1).float().view(batch, frames, -1, 3, height, width)
        before, same, after = parts.unbind(3)
        out = same + self.conv.bias.float().view(-1, 1, 1)
        out[:, 1:].add_(before[:, :-1])
        out[:, :-1].add_(after[:, 1:])
        return from_video_patches(out, self.patch)


class AudioHead(nn.Module):
    """Norm, SiLU and a convolution of 3 taps to the samples of a patch; returns (batch, 1, samples)."""

    def __init__(self, channels: int, config: UNetConfig) -> None:
        super().__init__()
        self.norm = GroupNorm(channels, config.norm_groups)
        self.conv = zero_init(Conv2d(channels, config.audio_patch, (1, 3), padding=(0, 1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(x, silu=True).unsqueeze(1)).reshape(x.shape[0], 1, -1)


def _build_stages(config: UNetConfig) -> tuple[nn.ModuleList, nn.ModuleList, nn.ModuleList]:
    """Input, middle and output stages. Every stage is a list of layers and, going down, leaves a skip connection."""
    window = dict(zip(config.cross_attention_scales, config.windows, strict=True)) if config.coupled else {}

    def block(in_channels: int, out_channels: int, scale: int, depth: int) -> list[nn.Module]:
        attends = [name for name in MODALITIES if scale in getattr(config, f"{name}_attention_scales")]
        widths, text = (in_channels, out_channels), scale in config.text_scales
        layers: list[nn.Module] = [ResBlock(config, widths, _dilation(depth), attends, text=text)]
        if scale in window:
            layers.append(
                CrossModalAttention(
                    out_channels, out_channels // config.head_channels, window[scale], config.norm_groups
                )
            )
        return layers

    width, depth = config.channel_mult[0] * config.channels, 1
    inputs, skip_widths = [nn.ModuleList([Stem(config)])], [width]
    for scale, mult in zip(config.scales, config.channel_mult, strict=True):
        for _ in range(config.res_blocks):
            inputs.append(nn.ModuleList(block(width, mult * config.channels, scale, depth)))
            width = mult * config.channels
            skip_widths.append(width)
            depth += 1
        if scale != config.scales[-1]:
            inputs.append(nn.ModuleList([ResBlock(config, (width, width), _dilation(depth), resample="down")]))
            skip_widths.append(width)
            depth += 1

    middle: list[nn.Module] = [
        ResBlock(config, (width, width), _dilation(depth), MODALITIES, text=config.text is not None and not last)
        for last in (False, True)
    ]
    if config.middle_coupled:
        middle.insert(1, CrossModalAttention(width, width // config.head_channels, None, config.norm_groups))

    outputs = []
    for scale, mult in reversed(list(zip(config.scales, config.channel_mult, strict=True))):
        for i in range(config.res_blocks + 1):
            depth -= 1
            layers = block(width + skip_widths.pop(), mult * config.channels, scale, depth)
            width = mult * config.channels
            if i == config.res_blocks and scale != 1:  # shares its dilation with the next block, as published
                layers.append(ResBlock(config, (width, width), _dilation(depth - 1), resample="up"))
            outputs.append(nn.ModuleList(layers))
    return nn.ModuleList(inputs), nn.ModuleList(middle), nn.ModuleList(outputs)


def _dilation(depth: int) -> int:
    """Samples between the taps of the audio convolution: doubled with every block, started again after 512."""
    return 2 ** (depth % 10)
