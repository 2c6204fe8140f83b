"""The Triton kernel of window_attention.py: attention of segments of queries, each to its own run of keys."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from model.networks.ops.launch import on_device_of

COUNTS = ("segments", "rows", "last_rows", "keys", "length", "per_segment", "blocks", "heads",
          "shift_stride")  # fmt: skip
"""Integer arguments without a compiled variant for each divisibility."""

LOG2_E = 1.4426950408889634


@triton.jit(do_not_specialize=COUNTS)
def attention_kernel(q, k, v, out, shift, shift_stride, scale, segments, rows, last_rows, keys, length, per_segment,
                     blocks, heads, q_batch, q_segment, q_row, q_head, k_batch, k_segment, k_row, k_head, out_batch,
                     out_segment, out_row, out_head, SHIFT: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr,
                     QUERIES: tl.constexpr, KEYS: tl.constexpr):  # fmt: skip
    """One block of queries of one segment and head (FlashAttention: Dao et al., 2022). `scale` includes log₂ e."""
    program = tl.program_id(0)
    head = program % heads
    block = program // heads % blocks
    segment = program // (heads * blocks) % segments
    batch = (program // (heads * blocks * segments)).to(tl.int64)
    row = block * QUERIES + tl.arange(0, QUERIES)
    exists = row < tl.where(segment == segments - 1, last_rows, rows)
    value_of_head = tl.arange(0, PADDED)
    inside = value_of_head < WIDTH
    at = batch * q_batch + segment.to(tl.int64) * q_segment + head * q_head
    query = tl.load(q + at + row[:, None].to(tl.int64) * q_row + value_of_head[None, :],
                    mask=exists[:, None] & inside[None, :], other=0.0)  # fmt: skip
    start = 0
    if SHIFT:
        start = ((segment + tl.load(shift + batch * shift_stride).to(tl.int32)) * per_segment) % length
    at = batch * k_batch + segment.to(tl.int64) * k_segment + head * k_head
    best = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    mean = tl.zeros((QUERIES, PADDED), tl.float32)
    for first in range(0, keys, KEYS):
        number = first + tl.arange(0, KEYS)
        token = start + number
        token = tl.where(token >= length, token - length, token).to(tl.int64)
        mask = number < keys
        address = at + token[:, None] * k_row + value_of_head[None, :]
        key = tl.load(k + address, mask=mask[:, None] & inside[None, :], other=0.0)
        value = tl.load(v + address, mask=mask[:, None] & inside[None, :], other=0.0)
        scores = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
        scores = tl.where(mask[None, :], scores, float("-inf"))
        higher = tl.maximum(best, tl.max(scores, 1))
        weights = tl.exp2(scores - higher[:, None])
        fade = tl.exp2(best - higher)
        total = total * fade + tl.sum(weights, 1)
        mean = mean * fade[:, None] + tl.dot(weights.to(value.dtype), value, input_precision="ieee")
        best = higher
    at = batch * out_batch + segment.to(tl.int64) * out_segment + head * out_head
    tl.store(out + at + row[:, None].to(tl.int64) * out_row + value_of_head[None, :],
             (mean / total[:, None]).to(out.dtype.element_ty), mask=exists[:, None] & inside[None, :])  # fmt: skip


def over_frames(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As `window_attention.over_frames`."""
    batch, frames, places, heads, width = q.shape
    out = q.new_empty((batch, frames, places, heads, width))
    own, keys, result = ((s[0], s[2], s[1], s[3]) for s in (q.stride(), k.stride(), out.stride()))
    _launch(q, k, v, out, None, batch, places, frames, frames, frames, frames, 0, own, keys, result)
    return out


def windows(
    q: Tensor, k: Tensor, v: Tensor, frames: int, q_per_frame: int, k_per_frame: int, window: int, shift: Tensor
) -> Tensor:
    """As `window_attention.windows`."""
    batch, queries, heads, width = q.shape
    out = q.new_empty((batch, queries, heads, width))
    own, result = ((s[0], q_per_frame * s[1], s[1], s[2]) for s in (q.stride(), out.stride()))
    keys = (k.stride(0), 0, k.stride(1), k.stride(2))
    last = queries - (frames - 1) * q_per_frame
    _launch(q, k, v, out, shift, batch, frames, q_per_frame, last, window * k_per_frame, k.shape[1], k_per_frame, own,
            keys, result)  # fmt: skip
    return out


def _launch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    shift: Tensor | None,
    batch: int,
    segments: int,
    rows: int,
    last_rows: int,
    keys: int,
    length: int,
    per_segment: int,
    q_strides: tuple[int, ...],
    k_strides: tuple[int, ...],
    out_strides: tuple[int, ...],
) -> None:
    """Strides are those of batch, segment, row and head."""
    heads, width = q.shape[-2:]
    at_once = min(128, max(16, triton.next_power_of_2(max(rows, last_rows))))
    keys_at_once = min(64, max(16, triton.next_power_of_2(keys)))
    blocks = triton.cdiv(max(rows, last_rows), at_once)
    with on_device_of(q):
        attention_kernel[(batch * segments * blocks * heads,)](
            q, k, v, out, q if shift is None else shift, 0 if shift is None else shift.stride(0), width**-0.5 * LOG2_E,
            segments, rows, last_rows, keys, length, per_segment, blocks, heads, *q_strides, *k_strides, *out_strides,
            SHIFT=shift is not None, WIDTH=width, PADDED=max(16, triton.next_power_of_2(width)), QUERIES=at_once,
            KEYS=keys_at_once, num_warps=max(1, at_once // 16), num_stages=1 if keys <= keys_at_once else 3,
        )  # fmt: skip
