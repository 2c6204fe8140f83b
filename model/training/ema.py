"""The exponential moving average of the weights: what is served is the average, not the last step."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def update_ema(average: nn.Module, network: nn.Module, rate: float) -> None:
    """average ← rate · average + (1 − rate) · network, parameter by parameter, without bias correction as published."""
    for mean, value in zip(average.parameters(), network.parameters(), strict=True):
        mean.lerp_(value, 1.0 - rate)
