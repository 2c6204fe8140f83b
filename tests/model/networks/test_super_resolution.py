"""The super-resolution U-Net."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model.checkpoint.loading import build, seeded_weights
from model.networks.config import PRESETS, SRConfig
from model.networks.super_resolution import SRUNet

CONFIG = SRConfig(channels=32, channel_mult=(1, 2), res_blocks=1, attention_scales=(2,))


@pytest.fixture(scope="module")
def net() -> SRUNet:
    net = build(SRUNet, CONFIG)
    seeded_weights(net, seed=3)
    return net


def frames(n: int, side: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_the_published_flags_build_311_027_910_parameters() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in SRUNet(PRESETS["paper"].sr).parameters()) == 311_027_910


@torch.no_grad()
def test_frames_are_independent_of_their_batch(net: SRUNet) -> None:
    x, low_res, t = frames(3, 16), frames(3, 4, seed=1), torch.tensor([0, 480, 999])
    eps, logits = net(x, low_res, t)
    assert logits.shape == eps.shape == x.shape
    for i in range(3):
        alone = net(x[i : i + 1], low_res[i : i + 1], t[i : i + 1])
        torch.testing.assert_close(eps[i : i + 1], alone[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(logits[i : i + 1], alone[1], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_small_frames_are_upsampled_bilinearly_once_or_at_every_step(net: SRUNet) -> None:
    x, low_res, t = frames(2, 16), frames(2, 4, seed=1), torch.tensor([5, 5])
    enlarged = F.interpolate(low_res, (16, 16), mode="bilinear", align_corners=False)
    assert torch.equal(net.upsample(low_res), enlarged)
    assert torch.equal(net(x, low_res, t)[0], net(x, enlarged, t)[0])
    assert not torch.allclose(net(x, low_res, t)[0], net(x, -low_res, t)[0], atol=1e-2)


def test_without_learned_variance_there_are_no_logits() -> None:
    net = SRUNet(
        SRConfig(channels=32, channel_mult=(1, 1), res_blocks=1, attention_scales=(), learn_sigma=False)
    ).eval()
    eps, logits = net(frames(1, 8), frames(1, 2), torch.tensor([1]))
    assert logits is None
    assert not eps.any()  # an untrained network predicts no noise


def test_gradients_reach_every_weight() -> None:
    net = build(SRUNet, CONFIG)
    seeded_weights(net, seed=3)
    eps, logits = net.requires_grad_(True)(frames(1, 8), frames(1, 2), torch.tensor([400]))
    (eps.square().mean() + logits.square().mean()).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


@torch.no_grad()
def test_bfloat16_is_close(net: SRUNet) -> None:
    half = build(SRUNet, CONFIG)
    seeded_weights(half, seed=3)
    args = frames(1, 16), frames(1, 4), torch.tensor([77])
    exact = net(*args)[0]
    assert (half.to_compute(torch.bfloat16)(*args)[0] - exact).norm() / exact.norm() < 0.03


@pytest.mark.parametrize(
    ("x", "low_res", "t", "numbers"),
    [
        ((1, 3, 15, 16), (1, 3, 4, 4), (1,), "15, 16"),
        ((1, 3, 16, 16), (1, 3, 5, 4), (1,), r"\(1, 3, 4, 4\).*\(1, 3, 5, 4\)"),
        ((1, 1, 16, 16), (1, 1, 4, 4), (1,), r"\(1, 1, 16, 16\)"),
        ((2, 3, 16, 16), (2, 3, 4, 4), (1,), r"\(2,\).*\(1,\)"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_with_the_numbers(
    net: SRUNet, x: tuple[int, ...], low_res: tuple[int, ...], t: tuple[int, ...], numbers: str
) -> None:
    with pytest.raises(ValueError, match=numbers):
        net(torch.zeros(x), torch.zeros(low_res), torch.zeros(t))
