"""Computes in bfloat16 with float32 weights, because an update is often smaller than 2⁻⁸ of the weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
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
        weights = {name: weight for name, weight in self.network.named_parameters() if name not in self._kept}
        cast = _Cast.apply(self.dtype, *weights.values())
        return functional_call(self.network, dict(zip(weights, cast, strict=True)), inputs)


class _Cast(torch.autograd.Function):
    """Casts hundreds of weights, and their gradients back, in a few kernels instead of one each."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.types = [weight.dtype for weight in weights]
        cast = [torch.empty_like(weight, dtype=dtype) for weight in weights]
        torch._foreach_copy_(cast, list(weights))
        return tuple(cast)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        given = [gradient for gradient in gradients if gradient is not None]
        wide = [
            torch.empty_like(gradient, dtype=dtype)
            for gradient, dtype in zip(gradients, ctx.types, strict=True)
            if gradient is not None
        ]
        torch._foreach_copy_(wide, given)
        cast = iter(wide)
        return None, *(None if gradient is None else next(cast) for gradient in gradients)
