"""The fused ops: their kernels under Triton's interpreter, and the networks that call them against plain ones."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from model.checkpoint.loading import build, seeded_weights
from model.networks import ops
from model.networks.config import PRESETS, SRConfig
from model.networks.coupled_unet import CoupledUNet
from model.networks.ops.add_bias import _add_bias
from model.networks.ops.group_norm import _group_norm, group_norm
from model.networks.ops.window_attention import over_frames, windows
from model.networks.pair import Pair
from model.networks.super_resolution import SRUNet

CLIP, TINY = PRESETS["tiny"].clip, PRESETS["tiny"].base
BOUNDS = {"torch.float32": 1e-6, "torch.float16": 5e-4, "torch.bfloat16": 5e-3}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed on this platform")
def test_kernels_equal_group_norm_in_float64_forward_and_backward() -> None:
    command = [sys.executable, "-m", "tests.model.networks.interpreted_kernels"]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    cases = [json.loads(line) for line in output.splitlines()]
    assert len(cases) == 13
    for case in cases:
        bound = 1e-5 if "far from zero" in case["case"] else BOUNDS[case["type"]]
        assert case["distances"] == {name: pytest.approx(0, abs=bound) for name in case["distances"]}, case["case"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton has a device to compile for")
def test_without_a_device_for_triton_the_reason_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    ops._try_triton.cache_clear()
    assert not ops.kernels_work()
    assert not ops.kernels_work()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "Triton does not work: " in caplog.text


NETWORKS = {
    "coupled": (CoupledUNet, TINY),
    "coupled, time added": (
        CoupledUNet,
        replace(TINY, channel_mult=(1, 2), scale_shift_norm=False, cross_attention_scales=(2,), windows=(4,)),
    ),
    "super-resolution": (SRUNet, SRConfig(channels=32, channel_mult=(1, 2), res_blocks=1, attention_scales=(2,))),
    "super-resolution, time added": (
        SRUNet,
        SRConfig(channels=32, channel_mult=(1, 2), res_blocks=1, attention_scales=(), scale_shift_norm=False),
    ),
}


def arguments(network: nn.Module) -> tuple[Tensor, ...]:
    if isinstance(network, SRUNet):
        return drawn(2, 3, 16, 16), drawn(2, 3, 4, 4, seed=1)
    return drawn(2, *CLIP.video_shape), drawn(2, *CLIP.audio_shape, seed=1)


def predict(network: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    t = torch.tensor([3.0, 700.0])
    out = network(*inputs, t) if isinstance(network, SRUNet) else network(Pair(*inputs), Pair(t, t))
    return [value for value in out if value is not None]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_fused_ops_equals_the_plain_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, config = NETWORKS[name]
    network = build(kind, config)
    seeded_weights(network, seed=3)
    results = []
    for fused in (False, True):
        monkeypatch.setattr(ops, "fused", lambda x, fused=fused: fused)
        monkeypatch.setattr(ops, "direct_attention", lambda x, fused=fused: fused and not torch.is_grad_enabled())
        with torch.no_grad():
            values = predict(network, arguments(network))
        inputs = tuple(value.requires_grad_() for value in arguments(network))
        loss = sum((out * out.detach().cos()).sum() for out in predict(network, inputs))
        assert isinstance(loss, Tensor)
        results.append((values, torch.autograd.grad(loss, [*inputs, *network.parameters()])))
    (values, gradients), (fused_values, fused_gradients) = results
    for actual, expected in zip(fused_values, values, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
    for actual, expected in zip(fused_gradients, gradients, strict=True):
        # Biases before a norm have no gradient but rounding.
        assert (actual - expected).norm() < 1e-3 * expected.norm() + 1e-2


@pytest.mark.parametrize("gradient", [False, True])
def test_ops_keep_the_contract_of_torch_library(gradient: bool) -> None:
    x, skip, weight, bias = drawn(2, 6, 8), drawn(2, 6, 4, seed=1), drawn(12), drawn(12, seed=2)
    modulation, offset = drawn(2, 24, seed=3), drawn(1, 3, 12, seed=4)
    given = [x, skip, weight, bias, modulation, offset]
    checks = ("test_schema", "test_faketensor") if not gradient else ("test_schema", "test_autograd_registration")
    for value in given:
        value.requires_grad_(gradient)
    torch.library.opcheck(_group_norm, (*given, 3, 1e-5, True, 1), test_utils=checks)
    torch.library.opcheck(_add_bias, (x, x.detach() + 1, weight[:8]), test_utils=checks)


def test_attention_ops_keep_the_contract_of_torch_library() -> None:
    q, k, v = drawn(2, 4, 3, 3, 2, 8).unbind(3)
    torch.library.opcheck(over_frames, (q, k, v), test_utils=("test_schema", "test_faketensor"))
    q, k, v = drawn(2, 13, 3, 2, 8).unbind(2)
    arguments = (q, k, v, 4, 3, 3, 2, torch.tensor([0, 2]))
    torch.library.opcheck(windows, arguments, test_utils=("test_schema", "test_faketensor"))


def test_tensors_that_are_not_contiguous_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias = drawn(2, 8, 6).mT, drawn(8), drawn(8, seed=1)
    expected = group_norm(x, weight, bias, 2)
    monkeypatch.setattr(ops, "fused", lambda x: True)
    torch.testing.assert_close(group_norm(x, weight, bias, 2), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": 3}, "8 channels do not fit .* 3 groups"),
        ({"skip": drawn(2, 5, 8)}, "skip .* does not fit x"),
        ({"modulation": drawn(2, 8)}, r"modulation must be \(2, 16\)"),
        ({"offset": drawn(1, 4, 8)}, "offset .* does not fit x"),
        ({"inner": 3}, r"x must be \(batch, rows, 3, channels\)"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    change: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops, "fused", lambda x: True)
    given = {"x": drawn(2, 6, 8), "weight": torch.ones(8), "bias": torch.zeros(8), "groups": 2, **change}
    with pytest.raises(ValueError, match=message):
        group_norm(**given)  # type: ignore[arg-type]
