"""Training in bfloat16 with float32 weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from model.networks.layers import Conv2d, GroupNorm, PointConv
from model.training.precision import ComputeIn


class Network(nn.Module):
    """A convolution, a norm that stays float32, a linear map, and a layer that the forward does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = Conv2d(3, 8, 3), GroupNorm(8, 2), PointConv(8, 4)
        self.unused = PointConv(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.conv(x)))


def test_weights_and_gradients_are_those_of_a_cast_of_each_weight() -> None:
    torch.manual_seed(0)
    network, x = Network(), torch.randn(2, 6, 6, 3).bfloat16()
    ComputeIn(network, torch.bfloat16)(x).float().square().sum().backward()
    found = {name: weight.grad for name, weight in network.named_parameters()}
    network.zero_grad()
    cast = {name: w if name.startswith("norm") else w.bfloat16() for name, w in network.named_parameters()}
    functional_call(network, cast, (x,)).float().square().sum().backward()
    for name, weight in network.named_parameters():
        if name.startswith("unused"):
            assert found[name] is None
            continue
        assert found[name] is not None
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], weight.grad), name
