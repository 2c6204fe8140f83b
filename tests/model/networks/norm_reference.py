"""Group normalisation with skip connection, offset, FiLM and SiLU from torch.nn.functional.group_norm, step by step."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    *,
    skip: Tensor | None = None,
    modulation: Tensor | None = None,
    offset: Tensor | None = None,
    silu: bool = False,
    inner: int = 1,
) -> Tensor:
    """Arguments as of model/networks/ops/group_norm.py."""
    if skip is not None:
        x = torch.cat([x, skip], dim=-1)
    if offset is not None:
        x = (x.reshape(x.shape[0], offset.shape[1], -1, x.shape[-1]) + offset.unsqueeze(2)).reshape(x.shape)
    samples = x.transpose(1, 2).flatten(0, 1) if inner > 1 else x.flatten(1, -2)
    y = F.group_norm(samples.mT, groups, weight, bias).mT
    if inner > 1:
        y = y.unflatten(0, (-1, inner)).transpose(1, 2)
    y = y.reshape(x.shape)
    if modulation is not None:
        per_sample = (x.shape[0], *(1,) * (x.dim() - 2), -1)
        scale, shift = (part.reshape(per_sample) for part in modulation.chunk(2, dim=1))
        y = y * (1 + scale) + shift
    return F.silu(y) if silu else y
