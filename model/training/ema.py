"""Exponential moving average of the weights; the service uses the average, not the last step."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def update_ema(average: nn.Module, network: nn.Module, rate: float) -> None:
    """average ← rate · average + (1 − rate) · network, parameter by parameter, without bias correction as published."""
    means: list[Tensor] = list(average.parameters())
    values: list[Tensor] = list(network.parameters())
    if len(means) != len(values):
        raise ValueError(f"the average has {len(means)} parameters, the network {len(values)}")
    torch._foreach_lerp_(means, values, 1.0 - rate)  # one kernel for hundreds of small tensors


def ema_rate(rate: float, step: int, warmup: bool) -> float:
    """The rate after `step` updates; with `warmup` it starts smaller, so that early weights fade quickly."""
    return min(rate, (1 + step) / (10 + step)) if warmup else rate
