"""Launches the kernels of group_norm_kernels.py: divides a call among programs. Imports Triton."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
from torch import Tensor

from model.networks.ops import group_norm_kernels as kernels
from model.networks.ops.launch import on_device_of

TILE = 4096
"""Values that one program holds at a time, forward; half of it backward."""

SMALL_ROWS = 256
"""Rows up to which a sample takes one kernel."""


def forward(
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
    """y, and the mean and 1/σ of each group (samples, groups), float32. Arguments as in `group_norm.py`, contiguous."""
    shape = Shape(x, skip, offset, groups, inner)
    y = x.new_empty((*x.shape[:-1], shape.channels))
    mean, rstd = (x.new_empty((shape.samples, groups), dtype=torch.float32) for _ in range(2))
    data = shape.data(x, skip, offset)
    film = _film(x, modulation)
    with on_device_of(x):
        if shape.small:
            kernels.small_kernel[shape.small_grid](
                **data, weight=weight, bias=bias, **film, y=y, mean_out=mean, rstd_out=rstd, groups=groups, eps=eps,
                SILU=silu, **shape.small_tile(TILE),
            )  # fmt: skip
            return y, mean, rstd
        tile = shape.tile(TILE)
        chunks = shape.chunks
        grid = (shape.samples * chunks["chunks"], triton.cdiv(shape.channels, tile["CHANNELS"]))
        partials = x.new_empty((shape.samples, chunks["chunks"], 2, shape.channels), dtype=torch.float32)
        coefficients = x.new_empty((shape.samples, 2, shape.channels), dtype=torch.float32)
        kernels.statistics_kernel[grid](**data, partials=partials, **chunks, **tile)
        kernels.finalise_kernel[(shape.samples, groups)](
            partials=partials, weight=weight, bias=bias, **film, mean_out=mean, rstd_out=rstd,
            coefficients=coefficients, rows=shape.rows, channels=shape.channels, groups=groups, width=shape.width,
            **chunks, eps=eps, **shape.reduction,
        )  # fmt: skip
        kernels.apply_kernel[grid](
            **data, mean=mean, coefficients=coefficients, y=y, groups=groups, width=shape.width, **chunks, SILU=silu,
            **tile,
        )  # fmt: skip
    return y, mean, rstd


def backward(
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
) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
    """Gradients of x and skip in their types, of weight and bias together (2, channels) and of FiLM in float32."""
    shape = Shape(x, skip, offset, groups, inner)
    dx = torch.empty_like(x)
    d_skip = None if skip is None else torch.empty_like(skip)
    d_affine = x.new_empty((shape.samples, 2, shape.channels), dtype=torch.float32)
    d_modulation = None
    if modulation is not None:
        d_modulation = x.new_empty((shape.samples, 2 * shape.channels), dtype=torch.float32)
    data = shape.data(x, skip, offset)
    film = _film(x, modulation)
    known = {"weight": weight, "bias": bias, **film, "mean": mean, "rstd": rstd, "dy": dy, "groups": groups}
    gradients = {"d_affine": d_affine, "d_modulation": dx if d_modulation is None else d_modulation}
    outputs = {"dx": dx, "d_skip": dx if d_skip is None else d_skip}
    with on_device_of(x):
        if shape.small:
            kernels.small_gradient_kernel[shape.small_grid](
                **data, **known, **gradients, **outputs, SILU=silu, **shape.small_tile(TILE)
            )
        else:
            tile = shape.tile(TILE // 2)
            chunks = shape.chunks
            grid = (shape.samples * chunks["chunks"], triton.cdiv(shape.channels, tile["CHANNELS"]))
            partials = x.new_empty((shape.samples, chunks["chunks"], 2, shape.channels), dtype=torch.float32)
            means = x.new_empty((shape.samples, groups, 2), dtype=torch.float32)
            known |= {"width": shape.width, **chunks}
            kernels.gradient_sums_kernel[grid](**data, **known, partials=partials, SILU=silu, **tile)
            kernels.finalise_gradient_kernel[(shape.samples, groups)](
                partials=partials, weight=weight, bias=bias, **film, **gradients, means=means, rows=shape.rows,
                channels=shape.channels, groups=groups, width=shape.width, chunks=chunks["chunks"], **shape.reduction,
            )  # fmt: skip
            kernels.gradient_kernel[grid](**data, **known, means=means, **outputs, SILU=silu, **tile)
    return dx, d_skip, d_affine.sum(0), d_modulation


class Shape:
    """How a call is divided among programs."""

    def __init__(self, x: Tensor, skip: Tensor | None, offset: Tensor | None, groups: int, inner: int) -> None:
        self.x_channels = x.shape[-1]
        self.channels = self.x_channels + (0 if skip is None else skip.shape[-1])
        self.samples = x.shape[0] * inner
        self.rows = x.numel() // (self.samples * self.x_channels)
        self.groups, self.width, self.inner = groups, self.channels // groups, inner
        self.padded = triton.next_power_of_2(self.width)
        self.small = self.rows <= SMALL_ROWS
        self.block = next((n for n in (128, 64, 32) if self.channels % n == 0), 0)
        self.block = self.block or min(128, triton.next_power_of_2(self.channels))
        self.period = self.rows if offset is None else self.rows // offset.shape[1]

    def data(self, x: Tensor, skip: Tensor | None, offset: Tensor | None) -> dict[str, Any]:
        """Arguments that say where the values are; a tensor that is absent is `x` and not read."""
        return {
            "x": x,
            "skip": x if skip is None else skip,
            "offset": x if offset is None else offset,
            "rows": self.rows,
            "channels": self.channels,
            "x_channels": self.x_channels,
            "inner": self.inner,
            "period": self.period,
            "offset_periods": 0 if offset is None or offset.shape[0] == 1 else offset.shape[1],
            "SKIP": skip is not None,
            "OFFSET": offset is not None,
        }

    def tile(self, values: int) -> dict[str, int]:
        return {"ROWS": values // self.block, "CHANNELS": self.block}

    @property
    def chunks(self) -> dict[str, int]:
        """About as many chunks as rows in a chunk: enough programs for one sample, and little to join."""
        chunk = max(TILE // self.block, 2 ** round(math.log2(self.rows) / 2))
        return {"chunk": chunk, "chunks": triton.cdiv(self.rows, chunk)}

    @property
    def reduction(self) -> dict[str, int]:
        return {"CHUNKS": max(1, 2048 // self.padded), "PADDED": self.padded}

    @property
    def small_groups(self) -> int:
        """Groups of one program: rows of at least 32 channels, and more where there are few rows."""
        rows = min(64, triton.next_power_of_2(self.rows))
        most = triton.next_power_of_2(self.groups)
        return min(most, max(1, TILE // rows // 2 // self.padded, 32 // self.padded))

    @property
    def small_grid(self) -> tuple[int, int]:
        return self.samples, triton.cdiv(self.groups, self.small_groups)

    def small_tile(self, values: int) -> dict[str, int]:
        width = self.small_groups * self.padded
        rows = max(1, min(triton.next_power_of_2(self.rows), values // 2 // width))
        return {"ROWS": rows, "WIDTH": self.width, "PADDED": self.padded, "GROUPS": self.small_groups}


def _film(x: Tensor, modulation: Tensor | None) -> dict[str, Any]:
    return {
        "modulation": x if modulation is None else modulation,
        "modulation_stride": 0 if modulation is None else modulation.stride(0),
        "MODULATION": modulation is not None,
    }
