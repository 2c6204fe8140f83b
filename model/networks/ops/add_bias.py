"""x + h + bias in one pass: a residual connection with the bias of the convolution that made h."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from model.networks import ops


def add_bias(x: Tensor, h: Tensor, bias: Tensor) -> Tensor:
    """The sum of x and h (…, channels), of one type, and bias (channels,)."""
    if not ops.fused(x):
        return x + (h + bias)
    return _add_bias(x.contiguous(), h.contiguous(), bias)


@torch.library.custom_op("duet::add_bias", mutates_args=(), device_types="cuda")
def _add_bias(x: Tensor, h: Tensor, bias: Tensor) -> Tensor:
    if x.shape != h.shape or not (x.is_contiguous() and h.is_contiguous()):
        raise ValueError(f"x {tuple(x.shape)} and h {tuple(h.shape)} must be contiguous and of one shape")
    from model.networks.ops import add_bias_kernel

    return add_bias_kernel.forward(x, h, bias)


@_add_bias.register_kernel("cpu")
def _add_bias_cpu(x: Tensor, h: Tensor, bias: Tensor) -> Tensor:
    return x + (h + bias)


@_add_bias.register_fake
def _add_bias_fake(x: Tensor, h: Tensor, bias: Tensor) -> Tensor:
    return torch.empty_like(x)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.bias_type = inputs[2].dtype


def _gradients(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    d_bias = None
    if ctx.needs_input_grad[2]:
        d_bias = dy.flatten(0, -2).sum(0, dtype=torch.float32).to(ctx.bias_type)
    return dy, dy, d_bias


_add_bias.register_autograd(_gradients, setup_context=_save)
