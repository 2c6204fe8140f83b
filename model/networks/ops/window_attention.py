"""Attention that reads its queries, keys and values where they are, without gradients.

Over frames at each pixel they are far apart in memory, and windows of RS-MMA overlap; PyTorch's attention needs copies
of both. With gradients the caller makes these, and the backward is PyTorch's.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


@torch.library.custom_op("duet::attention_over_frames", mutates_args=(), device_types="cuda")
def over_frames(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention over frames of (batch, frames, places, heads, d), each place and head on its own; contiguous.

    Values of a head must be adjacent, and k and v have the same strides.
    """
    _check(q, k, v)
    from model.networks.ops import window_attention_kernel

    return window_attention_kernel.over_frames(q, k, v)


@torch.library.custom_op("duet::attention_windows", mutates_args=(), device_types="cuda")
def windows(
    q: Tensor, k: Tensor, v: Tensor, frames: int, q_per_frame: int, k_per_frame: int, window: int, shift: Tensor
) -> Tensor:
    """RS-MMA: queries (batch, Q, heads, d) of frame i to the keys (batch, K, heads, d) of its window; contiguous.

    The window begins at key (i + shift) · k_per_frame, has window · k_per_frame < K keys, and wraps after the last.
    Queries beyond frames · q_per_frame belong to the last frame. `shift` is (batch,). Strides as in `over_frames`.
    """
    _check(q, k, v)
    if not window * k_per_frame < k.shape[1]:
        raise ValueError(f"{window} frames of {k_per_frame} keys are no window of {k.shape[1]}")
    from model.networks.ops import window_attention_kernel

    return window_attention_kernel.windows(q, k, v, frames, q_per_frame, k_per_frame, window, shift)


def _check(q: Tensor, k: Tensor, v: Tensor) -> None:
    if k.stride() != v.stride() or q.stride(-1) != 1 or k.stride(-1) != 1:
        raise ValueError(f"strides of q {q.stride()}, k {k.stride()} and v {v.stride()} do not fit the kernel")


@over_frames.register_kernel("cpu")
def _over_frames_cpu(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q_place, k_place, v_place = (value.permute(0, 2, 3, 1, 4).flatten(0, 1) for value in (q, k, v))
    out = F.scaled_dot_product_attention(q_place, k_place, v_place)
    return out.unflatten(0, (q.shape[0], -1)).permute(0, 3, 1, 2, 4).contiguous()


@windows.register_kernel("cpu")
def _windows_cpu(
    q: Tensor, k: Tensor, v: Tensor, frames: int, q_per_frame: int, k_per_frame: int, window: int, shift: Tensor
) -> Tensor:
    out = torch.empty(q.shape, dtype=q.dtype)
    for sample in range(q.shape[0]):
        for frame in range(frames):
            last = q.shape[1] if frame == frames - 1 else (frame + 1) * q_per_frame
            own = slice(frame * q_per_frame, last)
            start = (frame + int(shift[sample])) * k_per_frame
            tokens = (start + torch.arange(window * k_per_frame)) % k.shape[1]
            query, key, value = (x.transpose(0, 1) for x in (q[sample, own], k[sample, tokens], v[sample, tokens]))
            out[sample, own] = F.scaled_dot_product_attention(query, key, value).transpose(0, 1)
    return out


@over_frames.register_fake
def _over_frames_fake(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return q.new_empty(q.shape)


@windows.register_fake
def _windows_fake(
    q: Tensor, k: Tensor, v: Tensor, frames: int, q_per_frame: int, k_per_frame: int, window: int, shift: Tensor
) -> Tensor:
    return q.new_empty(q.shape)
