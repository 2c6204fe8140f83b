"""A plain coupled U-Net as the baseline of benchmarks.forward: channels first, one window after another.

It computes from a dict of tensors by published name and follows the figures of Ruan et al. (CVPR 2023) step by step:
every convolution on the axes of the figure, attention as two einsums around a softmax, RS-MMA as a loop over frames. It
covers only what the benchmark needs: samples divisible by frames, and the structure of `paper`.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from model.networks.config import UNetConfig
from model.networks.layers import timestep_embedding
from model.networks.pair import Pair

Weights = dict[str, Tensor]


class PlainCoupledUNet:
    """`weights` by published names. Called like CoupledUNet, but with one shift per block, in frames."""

    def __init__(self, config: UNetConfig, weights: Weights) -> None:
        self.config, self.weights = config, weights

    def __call__(self, x: Pair, t: Tensor, shifts: list[int]) -> Pair:
        """Video (batch, frames, 3, height, width) and audio (batch, 1, samples) at the times t (batch,)."""
        video, audio = x
        assert video is not None
        assert audio is not None
        w, config, shift = self.weights, self.config, iter(shifts)
        emb = linear(w, "time_embed.2", F.silu(linear(w, "time_embed.0", timestep_embedding(t, config.channels))))
        windows = dict(zip(config.cross_attention_scales, config.windows, strict=True))

        def block(name: str, video: Tensor, audio: Tensor, scale: int, depth: int) -> tuple[Tensor, Tensor]:
            attention = scale in config.video_attention_scales
            video, audio = res_block(w, f"{name}.0", video, audio, emb, depth, config.heads, attention)
            if scale in windows:
                video, audio = rs_mma(w, f"{name}.1", video, audio, config.head_channels, windows[scale], next(shift))
            return video, audio

        video = video_conv(w, "input_blocks.0.0.video_conv", video)
        audio = audio_conv(w, "input_blocks.0.0.audio_conv.audio_conv", audio, 1)
        skips, depth, stage = [(video, audio)], 1, 1
        for scale in config.scales:
            for _ in range(config.res_blocks):
                video, audio = block(f"input_blocks.{stage}", video, audio, scale, depth)
                skips.append((video, audio))
                stage, depth = stage + 1, depth + 1
            if scale != config.scales[-1]:
                video, audio = res_block(
                    w, f"input_blocks.{stage}.0", video, audio, emb, depth, config.heads, resample="down"
                )
                skips.append((video, audio))
                stage, depth = stage + 1, depth + 1

        middle = (emb, depth, config.heads, True, True)
        video, audio = res_block(w, "middle_blocks.0", video, audio, *middle)
        video, audio = rs_mma(w, "middle_blocks.1", video, audio, config.head_channels, video.shape[1], 0)
        video, audio = res_block(w, "middle_blocks.2", video, audio, *middle)

        stage = 0
        for scale in reversed(config.scales):
            for i in range(config.res_blocks + 1):
                depth -= 1
                skip_video, skip_audio = skips.pop()
                video, audio = torch.cat([video, skip_video], dim=2), torch.cat([audio, skip_audio], dim=1)
                video, audio = block(f"output_blocks.{stage}", video, audio, scale, depth)
                if i == config.res_blocks and scale != 1:
                    name = f"output_blocks.{stage}.{1 + (scale in windows)}"
                    video, audio = res_block(w, name, video, audio, emb, depth - 1, config.heads, resample="up")
                stage += 1

        video = rearrange(F.silu(video_norm(w, "video_out.0.GroupNorm", video)), "b f c h w -> b c f h w")
        video = rearrange(conv(w, "video_out.2.video_conv", video, F.conv3d, padding=1), "b c f h w -> b f c h w")
        return Pair(video, audio_conv(w, "audio_out.2.audio_conv", F.silu(norm(w, "audio_out.0.GroupNorm", audio)), 1))


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def conv(w: Weights, name: str, x: Tensor, kind: object, **options: int) -> Tensor:
    return kind(x, w[f"{name}.weight"], w[f"{name}.bias"], **options)  # type: ignore[operator]


def norm(w: Weights, name: str, x: Tensor) -> Tensor:
    """(batch, channels, …), in float32."""
    return F.group_norm(x.float(), 32, w[f"{name}.weight"].float(), w[f"{name}.bias"].float(), 1e-5).to(x.dtype)


def video_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    """(batch, frames, channels, height, width), statistics over frames and pixels."""
    return rearrange(norm(w, name, rearrange(x, "b f c h w -> b c f h w")), "b c f h w -> b f c h w")


def video_conv(w: Weights, name: str, x: Tensor) -> Tensor:
    batch, _, _, height, width = x.shape
    x = conv(w, f"{name}.video_conv_spatial", rearrange(x, "b f c h w -> (b f) c h w"), F.conv2d, padding=1)
    x = rearrange(x, "(b f) c h w -> (b h w) c f", b=batch)
    x = conv(w, f"{name}.video_conv_temporal", x, F.conv1d, padding=1)
    return rearrange(x, "(b h w) c f -> b f c h w", b=batch, h=height, w=width)


def audio_conv(w: Weights, name: str, x: Tensor, dilation: int) -> Tensor:
    return conv(w, name, x, F.conv1d, padding=dilation, dilation=dilation)


def point_video(w: Weights, name: str, x: Tensor) -> Tensor:
    x = conv(w, name, rearrange(x, "b f c h w -> b c f h w"), F.conv3d)
    return rearrange(x, "b c f h w -> b f c h w")


def res_block(
    w: Weights,
    name: str,
    video: Tensor,
    audio: Tensor,
    emb: Tensor,
    depth: int,
    heads: int,
    attention: bool = False,
    audio_attention: bool = False,
    resample: str | None = None,
) -> tuple[Tensor, Tensor]:
    h_video = video_conv(
        w, f"{name}.video_in_layers.2", F.silu(video_norm(w, f"{name}.video_in_layers.0.GroupNorm", video))
    )
    h_audio = F.silu(norm(w, f"{name}.audio_in_layers.0.GroupNorm", audio))
    h_audio = audio_conv(w, f"{name}.audio_in_layers.2.audio_conv", h_audio, 2 ** (depth % 10))
    if resample:
        change_video, change_audio = (pool_video, pool_audio) if resample == "down" else (repeat_video, repeat_audio)
        h_video, video, h_audio, audio = (
            change_video(h_video),
            change_video(video),
            change_audio(h_audio),
            change_audio(audio),
        )

    scale, shift = linear(w, f"{name}.emb_layers.1", F.silu(emb)).to(video.dtype).chunk(2, dim=1)
    h_video = video_norm(w, f"{name}.video_out_layers.0.GroupNorm", h_video)
    h_video = F.silu(h_video * (1 + scale[:, None, :, None, None]) + shift[:, None, :, None, None])
    h_audio = norm(w, f"{name}.audio_out_layers.0.GroupNorm", h_audio)
    h_audio = F.silu(h_audio * (1 + scale[:, :, None]) + shift[:, :, None])
    if f"{name}.video_skip_connection.video_conv.weight" in w:
        video = point_video(w, f"{name}.video_skip_connection.video_conv", video)
        audio = conv(w, f"{name}.audio_skip_connection.audio_conv", audio, F.conv1d)
    video = video + point_video(w, f"{name}.video_out_layers.3.video_conv", h_video)
    audio = audio + conv(w, f"{name}.audio_out_layers.3.audio_conv", h_audio, F.conv1d)

    if attention:
        batch, _, _, height, width = video.shape
        x = rearrange(video, "b f c h w -> (b f) c (h w)")
        x = self_attention(w, f"{name}.spatial_attention_block", x, heads)
        x = rearrange(x, "(b f) c (h w) -> (b h w) c f", b=batch, h=height)
        x = self_attention(w, f"{name}.temporal_attention_block", x, heads)
        video = rearrange(x, "(b h w) c f -> b f c h w", b=batch, h=height, w=width)
    if audio_attention:
        audio = self_attention(w, f"{name}.audio_attention_block", audio, heads)
    return video, audio


def pool_video(x: Tensor) -> Tensor:
    return rearrange(F.avg_pool3d(rearrange(x, "b f c h w -> b c f h w"), (1, 2, 2)), "b c f h w -> b f c h w")


def pool_audio(x: Tensor) -> Tensor:
    return F.avg_pool1d(x, 4)


def repeat_video(x: Tensor) -> Tensor:
    x = F.interpolate(rearrange(x, "b f c h w -> b c f h w"), scale_factor=(1, 2, 2), mode="nearest")
    return rearrange(x, "b c f h w -> b f c h w")


def repeat_audio(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=4, mode="nearest")


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(batch · heads, channels, tokens) each, softmax in float32."""
    scale = q.shape[1] ** -0.25
    scores = torch.einsum("bct,bcs->bts", q * scale, k * scale)
    return torch.einsum("bts,bcs->bct", scores.float().softmax(dim=-1).to(v.dtype), v)


def self_attention(w: Weights, name: str, x: Tensor, heads: int) -> Tensor:
    """(batch, channels, tokens)."""
    qkv = conv(w, f"{name}.qkv", norm(w, f"{name}.norm.GroupNorm", x), F.conv1d)
    q, k, v = rearrange(qkv, "b (n h c) t -> n (b h) c t", n=3, h=heads)
    return x + conv(w, f"{name}.proj_out", rearrange(attend(q, k, v), "(b h) c t -> b (h c) t", h=heads), F.conv1d)


def rs_mma(
    w: Weights, name: str, video: Tensor, audio: Tensor, head_channels: int, window: int, shift: int
) -> tuple[Tensor, Tensor]:
    """Frame i and audio segment i attend to the other modality in frames i + shift … i + shift + window − 1."""
    frames, height, width = video.shape[1], video.shape[3], video.shape[4]
    x = rearrange(video, "b f c h w -> b c (f h w)")
    v_qkv = conv(w, f"{name}.v_qkv", norm(w, f"{name}.v_norm.GroupNorm", x), F.conv1d)
    a_qkv = conv(w, f"{name}.a_qkv", norm(w, f"{name}.a_norm.GroupNorm", audio), F.conv1d)
    split = {"n": 3, "c": head_channels, "f": frames}
    v_q, v_k, v_v = rearrange(v_qkv, "b (n h c) (f t) -> n (b h) c f t", **split)
    a_q, a_k, a_v = rearrange(a_qkv, "b (n h c) (f t) -> n (b h) c f t", **split)
    from_audio, from_video = [], []
    for i in range(frames):
        seen = [(i + shift + j) % frames for j in range(window)]
        from_audio.append(attend(v_q[:, :, i], a_k[:, :, seen].flatten(2), a_v[:, :, seen].flatten(2)))
        from_video.append(attend(a_q[:, :, i], v_k[:, :, seen].flatten(2), v_v[:, :, seen].flatten(2)))
    out_video = rearrange(
        torch.stack(from_audio, dim=2), "(b h) c f (y x) -> b f (h c) y x", b=len(video), y=height, x=width
    )
    out_audio = rearrange(torch.stack(from_video, dim=2), "(b h) c f t -> b (h c) (f t)", b=len(video))
    video = video + point_video(w, f"{name}.video_proj_out.video_conv", out_video)
    return video, audio + conv(w, f"{name}.audio_proj_out.audio_conv", out_audio, F.conv1d)
