"""Self-attention, and the paper's random-shift multi-modal attention (RS-MMA), which couples the two modalities.

RS-MMA (Ruan et al., section 3.2): audio is cut into as many segments as there are frames. Frame i attends to the audio
of frames i+s … i+s+w−1 and audio segment i to the video of the same frames, counted cyclically, where the window w
grows with depth and the shift s is drawn anew for each block and forward pass. All frames are computed in one call, and
every sample of a batch has its own shift.

Tokens are (batch, tokens, channels) with video tokens in the order (frame, row, column).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.networks import ops
from model.networks.layers import GroupNorm, PointConv, zero_init
from model.networks.ops import window_attention
from model.networks.pair import Pair

SCORES_AT_ONCE = 2**21
"""Attention scores in one part of `_attend_by_products`: 4 MiB of bfloat16."""


class SelfAttention(nn.Module):
    """x + proj(attention(qkv(norm(x)))) on (batch, tokens, channels).

    `heads_first`: the qkv channels are ordered (head, q|k|v, channel), as in the super-resolution network; otherwise
    (q|k|v, head, channel), as in the coupled one. Published weights depend on it.
    """

    def __init__(self, channels: int, heads: int, heads_first: bool = False, norm_groups: int = 32) -> None:
        super().__init__()
        self.heads, self.heads_first = heads, heads_first
        self.norm = GroupNorm(channels, norm_groups)
        self.qkv = PointConv(channels, 3 * channels)
        self.proj = zero_init(PointConv(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.proj(attend(*self._split(self.qkv(self.norm(x)))).flatten(2))

    def over_frames(self, x: Tensor) -> Tensor:
        """The same over the frames of each place of (batch, frames, places, channels)."""
        if ops.direct_attention(x):
            qkv = self.qkv(self.norm(x, inner=x.shape[2]))
            return x + self.proj(window_attention.over_frames(*self._split(qkv)).flatten(3))
        y = self(x.transpose(1, 2).contiguous().flatten(0, 1))
        return y.unflatten(0, (x.shape[0], -1)).transpose(1, 2).contiguous()

    def _split(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values (…, heads, d)."""
        if self.heads_first:
            return qkv.unflatten(-1, (self.heads, 3, -1)).unbind(-2)
        return qkv.unflatten(-1, (3, self.heads, -1)).unbind(-3)


class CrossModalAttention(nn.Module):
    """RS-MMA between video (batch, frames, height, width, channels) and audio (batch, samples, channels).

    `window` is in frames; None is the whole clip (the middle of the network), where a shift changes nothing.
    """

    def __init__(self, channels: int, heads: int, window: int | None, norm_groups: int = 32) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.video = CrossModalBranch(channels, norm_groups)
        self.audio = CrossModalBranch(channels, norm_groups)

    def forward(self, x: Pair, shift: Tensor | None = None) -> Pair:
        """`shift` (batch,) whole frames, 0 … frames − window; None is 0: a window of one frame then copies nothing,
        unless samples are left over."""
        video, audio = x
        assert video is not None and audio is not None  # noqa: PT018
        frames, tokens = video.shape[1], video.shape[2] * video.shape[3]
        window = self.window or frames
        if shift is None and window < frames and ops.direct_attention(video):
            shift = video.new_zeros(len(video), dtype=torch.long)  # which the kernel reads for both modalities
        q_video, k_video, v_video = self.video.project(video.flatten(1, 3), self.heads)
        q_audio, k_audio, v_audio = self.audio.project(audio, self.heads)
        per_frame = audio.shape[1] // frames  # audio samples in a segment; the remainder joins the last segment
        from_audio = attend_windows(q_video, k_audio, v_audio, frames, tokens, per_frame, window, shift)
        from_video = attend_windows(q_audio, k_video, v_video, frames, per_frame, tokens, window, shift)
        return Pair(video + self.video.proj(from_audio).view(video.shape), audio + self.audio.proj(from_video))


class CrossModalBranch(nn.Module):
    """One modality's part of RS-MMA: norm, queries, keys and values, output projection."""

    def __init__(self, channels: int, norm_groups: int) -> None:
        super().__init__()
        self.norm = GroupNorm(channels, norm_groups)
        self.qkv = PointConv(channels, 3 * channels)
        self.proj = zero_init(PointConv(channels, channels))

    def project(self, x: Tensor, heads: int) -> tuple[Tensor, ...]:
        """Queries, keys and values (batch, tokens, heads, d), split in one operation, so that their gradients are
        joined in one."""
        return self.qkv(self.norm(x)).unflatten(2, (3, heads, -1)).unbind(2)


def window_keys(length: int, frames: int, per_frame: int, window: int, shift: Tensor) -> Tensor:
    """Indices of the tokens that each frame attends to: (batch, frames, window · per_frame).

    Frame i sees tokens (i + shift) · per_frame + 0, 1, 2, …, modulo `length`. Where `length` is not frames · per_frame,
    a window beyond the end therefore passes through the remaining tokens before it wraps to token 0, as published.
    """
    start = (torch.arange(frames, device=shift.device) + shift[:, None]) * per_frame
    return (start[:, :, None] + torch.arange(window * per_frame, device=shift.device)) % length


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention of (batch, tokens, heads, d) tensors, softmax in float32."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if q.is_cpu and q.dtype == torch.bfloat16:
        return _attend_by_products(q, k, v).transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def _attend_by_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same in bfloat16 on a CPU, (batch, heads, tokens, d): two batched matrix products, in parts whose scores stay
    in the cache. Without AMX it takes little more than half the time of the fused kernel."""
    queries, keys, values = (q * q.shape[-1] ** -0.5).flatten(0, 1), k.flatten(0, 1).mT, v.flatten(0, 1)
    size = max(1, SCORES_AT_ONCE // (queries.shape[1] * values.shape[1]))
    parts = zip(queries.split(size), keys.split(size), values.split(size), strict=True)
    return torch.cat([(a @ b).softmax(dim=-1) @ c for a, b, c in parts]).view(q.shape)


def attend_windows(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    frames: int,
    q_per_frame: int,
    k_per_frame: int,
    window: int,
    shift: Tensor | None,
) -> Tensor:
    """Queries (batch, Q, heads, d) of one modality to the windows of the other's keys and values (batch, K, heads, d).

    Query tokens beyond frames · q_per_frame use the last frame's window. Returns (batch, Q, heads · d).
    """
    batch, length = k.shape[:2]
    if window * k_per_frame == length:  # every window is the whole clip, and the order of keys does not matter
        return attend(q, k, v).flatten(2)
    direct = ops.direct_attention(q)
    if shift is None and window == 1 and length == frames * k_per_frame and not direct:
        keys, values = (each.unflatten(1, (frames, k_per_frame)).flatten(0, 1) for each in (k, v))
    else:
        if shift is None:
            shift = q.new_zeros(batch, dtype=torch.long)
        if direct:
            return window_attention.windows(q, k, v, frames, q_per_frame, k_per_frame, window, shift).flatten(2)
        tokens = window_keys(length, frames, k_per_frame, window, shift)
        rows = (tokens + length * torch.arange(batch, device=tokens.device)[:, None, None]).flatten()
        keys, values = (each.flatten(0, 1).index_select(0, rows).unflatten(0, (batch * frames, -1)) for each in (k, v))
    whole = frames * q_per_frame
    segments = q[:, :whole].unflatten(1, (frames, q_per_frame)).flatten(0, 1)
    out = attend(segments, keys, values).reshape(batch, whole, -1)
    if whole < q.shape[1]:
        last = (each.unflatten(0, (batch, frames))[:, -1] for each in (keys, values))
        out = torch.cat([out, attend(q[:, whole:], *last).flatten(2)], dim=1)
    return out
