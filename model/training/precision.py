"""Computes in bfloat16 with float32 weights, because an update is often smaller than 2⁻⁸ of the weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from model.networks.layers import FLOAT32


class ComputeIn(nn.Module):
    """Runs `network` in `dtype` as the service does: norms and the time embedding stay float32.

    Every forward casts the weights again, so that gradients reach the float32 originals.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype
        self._kept = {
            f"{place}.{name}"
            for place, module in network.named_modules()
            if isinstance(module, FLOAT32)
            for name, _ in module.named_parameters()
        }

    def forward(self, *inputs: Any) -> Any:
        if self.dtype == torch.float32:
            return self.network(*inputs)
        cast = {
            name: weight.to(self.dtype) for name, weight in self.network.named_parameters() if name not in self._kept
        }
        return functional_call(self.network, cast, inputs)
