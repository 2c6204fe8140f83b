"""Group normalisation with channels last, its affine map, FiLM and SiLU as one operation.

    y = silu(((x − mean) / sqrt(variance + eps) · weight + bias) · (1 + scale) + shift)

x (batch, …, channels) may be two tensors side by side, `x` and `skip`: a U-Net's skip connection needs no concatenation
then. `modulation` (batch, 2·channels) holds scale and shift, FiLM conditioning (Perez et al., 2018). `offset` is added
to x first: (1 or batch, periods, channels), one row for each of `periods` equal runs of positions, such as a bias that
depends on the frame. `inner` normalises each of so many positions on its own: x is then (batch, rows, inner, channels)
with statistics over rows and the channels of a group.

Statistics are float32, x and y any floating-point type. Small enough for both: a sample has at most 2³¹ values.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from model.networks import ops


def group_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float = 1e-5,
    *,
    modulation: Tensor | None = None,
    silu: bool = False,
    skip: Tensor | None = None,
    offset: Tensor | None = None,
    inner: int = 1,
) -> Tensor:
    """y (batch, …, channels of x and skip), of the type of x, contiguous; see above.

    Tensors that are not contiguous are copied. Raises ValueError, naming the shapes, for those that do not fit.
    """
    if not ops.fused(x):
        return _composed(x, skip, weight, bias, modulation, offset, groups, eps, silu, inner)
    _check(x, skip, weight, modulation, offset, groups, inner)
    skip, offset = (None if value is None else value.contiguous() for value in (skip, offset))
    arguments = (x.contiguous(), skip, weight, bias, modulation, offset, groups, eps, silu, inner)
    if torch.compiler.is_compiling():
        return _group_norm(*arguments)[0]
    return _Direct.apply(*arguments)[0]


def _check(
    x: Tensor,
    skip: Tensor | None,
    weight: Tensor,
    modulation: Tensor | None,
    offset: Tensor | None,
    groups: int,
    inner: int,
) -> None:
    channels = x.shape[-1] + (0 if skip is None else skip.shape[-1])
    wrong = []
    if weight.shape != (channels,) or channels % groups:
        wrong.append(f"{channels} channels do not fit {tuple(weight.shape)} weights in {groups} groups")
    if skip is not None and (skip.shape[:-1] != x.shape[:-1] or skip.dtype != x.dtype):
        wrong.append(f"skip {tuple(skip.shape)} {skip.dtype} does not fit x {tuple(x.shape)} {x.dtype}")
    if modulation is not None and (modulation.shape != (x.shape[0], 2 * channels) or inner > 1):
        wrong.append(f"modulation must be {(x.shape[0], 2 * channels)}; got {tuple(modulation.shape)}")
    positions = x.shape[1:-1].numel()
    if offset is not None:
        batch, periods = offset.shape[:2]
        if offset.shape[2:] != (channels,) or batch not in (1, x.shape[0]) or positions % periods or inner > 1:
            wrong.append(f"offset {tuple(offset.shape)} does not fit x {tuple(x.shape)}")
    if inner > 1 and (x.dim() != 4 or x.shape[2] != inner):
        wrong.append(f"x must be (batch, rows, {inner}, channels); got {tuple(x.shape)}")
    if wrong:
        raise ValueError("; ".join(wrong))


def _composed(
    x: Tensor,
    skip: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    modulation: Tensor | None,
    offset: Tensor | None,
    groups: int,
    eps: float,
    silu: bool,
    inner: int,
) -> Tensor:
    """The same by PyTorch's own operations."""
    if skip is not None:
        x = torch.cat([x, skip], dim=-1)
    if offset is not None:
        runs = x.view(x.shape[0], offset.shape[1], -1, x.shape[-1])
        x = (runs + offset.to(x.dtype).unsqueeze(2)).view(x.shape)
    if inner > 1:
        y = _normalise(x.transpose(1, 2).flatten(0, 1), weight, bias, groups, eps)
        y = y.unflatten(0, (-1, inner)).transpose(1, 2)
    elif modulation is None:
        y = _normalise(x, weight, bias, groups, eps)
    else:
        scale, shift = modulation.float().chunk(2, dim=1)
        scale = scale + 1
        if x.shape[0] == 1:  # one sample: its scale and shift are the affine map of the norm itself, and cost nothing
            y = _normalise(x, weight * scale[0], bias * scale[0] + shift[0], groups, eps)
        else:
            per_sample = (x.shape[0], *(1,) * (x.dim() - 2), -1)
            y = _normalise(x, weight, bias, groups, eps)
            y = torch.addcmul(shift.to(y.dtype).view(per_sample), y, scale.to(y.dtype).view(per_sample))
    return F.silu(y, inplace=not torch.is_grad_enabled()) if silu else y


def _normalise(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    planes = x.reshape(x.shape[0], -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
    if x.is_cpu:  # this kernel reads bfloat16 or float16 and computes in float32 by itself
        y = torch.group_norm(planes, groups, weight, bias, eps)
    else:
        y = torch.group_norm(planes.float(), groups, weight, bias, eps).to(x.dtype)
    return y.permute(0, 2, 3, 1).reshape(x.shape)


def _kernels(
    x: Tensor,
    skip: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    modulation: Tensor | None,
    offset: Tensor | None,
    groups: int,
    eps: float,
    silu: bool,
    inner: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, and the mean and 1/σ of each group (batch · inner, groups) for the backward."""
    from model.networks.ops import group_norm_launch

    return group_norm_launch.forward(x, skip, weight, bias, modulation, offset, groups, eps, silu, inner)


def _kernels_backward(
    dy: Tensor,
    x: Tensor,
    skip: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    modulation: Tensor | None,
    offset: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    groups: int,
    silu: bool,
    inner: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, skip, (weight, bias) and modulation; empty where there is none."""
    from model.networks.ops import group_norm_launch

    dx, d_skip, d_affine, d_modulation = group_norm_launch.backward(
        dy, x, skip, weight, bias, modulation, offset, mean, rstd, groups, silu, inner
    )
    return dx, _present(d_skip, x), d_affine, _present(d_modulation, mean)


_group_norm = torch.library.custom_op("duet::group_norm", _kernels, mutates_args=(), device_types="cuda")
_group_norm_backward = torch.library.custom_op(
    "duet::group_norm_backward", _kernels_backward, mutates_args=(), device_types="cuda"
)


def _present(value: Tensor | None, like: Tensor) -> Tensor:
    return like.new_empty(0) if value is None else value


def _group_norm_cpu(
    x: Tensor,
    skip: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    modulation: Tensor | None,
    offset: Tensor | None,
    groups: int,
    eps: float,
    silu: bool,
    inner: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """For tests of what calls the op: the service calls `_composed` on a CPU, without the cost of an op in Python."""
    y = _composed(x, skip, weight, bias, modulation, offset, groups, eps, silu, inner)
    values = _values(x, skip, offset).view(x.shape[0], -1, inner, groups, weight.shape[0] // groups)
    variance, mean = torch.var_mean(values, dim=(1, 4), correction=0)
    return y.contiguous(), mean.flatten(0, 1), (variance + eps).rsqrt().flatten(0, 1)


def _values(x: Tensor, skip: Tensor | None, offset: Tensor | None) -> Tensor:
    """What is normalised, float32: (batch, positions, channels)."""
    values = (x if skip is None else torch.cat([x, skip], dim=-1)).float().flatten(1, -2)
    if offset is None:
        return values
    return (values.unflatten(1, (offset.shape[1], -1)) + offset.float().unsqueeze(2)).flatten(1, 2)


def _group_norm_backward_cpu(
    dy: Tensor,
    x: Tensor,
    skip: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    modulation: Tensor | None,
    offset: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    groups: int,
    silu: bool,
    inner: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, channels = x.shape[0], weight.shape[0]
    values = _values(x, skip, offset).view(batch, -1, inner, channels)

    def of_channels(value: Tensor) -> Tensor:
        return value.view(batch, 1, inner, groups).repeat_interleave(channels // groups, dim=3)

    normal = (values - of_channels(mean)) * of_channels(rstd)
    scale = torch.ones(batch, channels) if modulation is None else 1 + modulation[:, :channels].float()
    factor = (weight * scale).view(batch, 1, 1, channels)
    gradient = dy.float().view(values.shape)
    if silu:
        shift = 0.0 if modulation is None else modulation[:, channels:].float()
        before = normal * factor + (bias * scale + shift).view(batch, 1, 1, channels)
        gradient = torch.ops.aten.silu_backward(gradient, before)
    sums, products = gradient.sum((1, 2)), (gradient * normal).sum((1, 2))
    d_affine = torch.stack([(products * scale).sum(0), (sums * scale).sum(0)])
    d_modulation = None if modulation is None else torch.cat([products * weight + sums * bias, sums], dim=1)

    def group_means(value: Tensor) -> Tensor:
        return of_channels(value.view(batch, -1, inner, groups, channels // groups).mean((1, 4)))

    gradient = gradient * factor
    dx = of_channels(rstd) * (gradient - group_means(gradient) - normal * group_means(gradient * normal))
    dx = dx.to(x.dtype).view(*x.shape[:-1], channels)
    if skip is None:
        return dx, x.new_empty(0), d_affine, _present(d_modulation, mean)
    own, beside = (part.contiguous() for part in dx.split([x.shape[-1], skip.shape[-1]], dim=-1))
    return own, beside, d_affine, _present(d_modulation, mean)


@_group_norm.register_fake
def _group_norm_fake(
    x: Tensor,
    skip: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    modulation: Tensor | None,
    offset: Tensor | None,
    groups: int,
    eps: float,
    silu: bool,
    inner: int,
) -> tuple[Tensor, Tensor, Tensor]:
    channels = x.shape[-1] + (0 if skip is None else skip.shape[-1])
    mean = x.new_empty((x.shape[0] * inner, groups), dtype=torch.float32)
    return x.new_empty((*x.shape[:-1], channels)), mean, torch.empty_like(mean)


@_group_norm_backward.register_fake
def _group_norm_backward_fake(
    dy: Tensor,
    x: Tensor,
    skip: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    modulation: Tensor | None,
    offset: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    groups: int,
    silu: bool,
    inner: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    d_skip = x.new_empty(0) if skip is None else torch.empty_like(skip)
    d_modulation = mean.new_empty(0 if modulation is None else modulation.shape)
    return torch.empty_like(x), d_skip, mean.new_empty((2, weight.shape[0])), d_modulation


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, skip, weight, bias, modulation, offset, groups, _, silu, inner = inputs
    _, mean, rstd = output
    ctx.save_for_backward(x, skip, weight, bias, modulation, offset, mean, rstd)
    ctx.options = groups, silu, inner
    ctx.mark_non_differentiable(mean, rstd)
    ctx.set_materialize_grads(False)


def _differentiate(
    backward: Callable[..., tuple[Tensor, ...]], ctx: Any, dy: Tensor | None, *_: Tensor | None
) -> tuple[Tensor | None, ...]:
    if dy is None:
        return (None,) * 10
    x, skip, weight, bias, modulation, offset, mean, rstd = ctx.saved_tensors
    dx, d_skip, d_affine, d_modulation = backward(
        dy.contiguous(), x, skip, weight, bias, modulation, offset, mean, rstd, *ctx.options
    )
    d_offset = None
    if offset is not None and ctx.needs_input_grad[5]:
        both = dx if skip is None else torch.cat([dx, d_skip], dim=-1)
        runs = both.view(x.shape[0], offset.shape[1], -1, offset.shape[2])
        dims = (0, 2) if offset.shape[0] == 1 else 2
        d_offset = runs.sum(dims, dtype=torch.float32).to(offset.dtype).view(offset.shape)
    return (
        dx,
        None if skip is None else d_skip,
        d_affine[0].to(weight.dtype),
        d_affine[1].to(bias.dtype),
        None if modulation is None else d_modulation.to(modulation.dtype),
        d_offset,
        None,
        None,
        None,
        None,
    )


_group_norm.register_kernel("cpu", _group_norm_cpu)
_group_norm_backward.register_kernel("cpu", _group_norm_backward_cpu)
_group_norm.register_autograd(partial(_differentiate, _group_norm_backward), setup_context=_save)


def _run(x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _kernels(x, *arguments) if x.is_cuda else _group_norm_cpu(x, *arguments)


def _run_backward(dy: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _kernels_backward(dy, *arguments) if dy.is_cuda else _group_norm_backward_cpu(dy, *arguments)


class _Direct(torch.autograd.Function):
    """The op without the dispatcher, which takes 0.1 ms of a CPU for each call with gradients."""

    forward = staticmethod(_run)
    setup_context = staticmethod(_save)
    backward = staticmethod(partial(_differentiate, _run_backward))
