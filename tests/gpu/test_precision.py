"""Predictions on the device, in float32 and bfloat16, against those of the CPU in float32."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from benchmarks.forward import draw_weights
from model.checkpoint.loading import build
from model.networks.config import PRESETS
from model.networks.coupled_unet import CoupledUNet
from model.networks.super_resolution import SRUNet
from model.runtime.evaluator import Evaluator
from model.sampling.schedule import NoiseSchedule
from tests.gpu.conftest import drawn_clips, drawn_frames

CONFIG = PRESETS["tiny"]


def difference(one: Tensor, other: Tensor) -> float:
    """Relative L2 distance."""
    return float((one - other).norm() / other.norm())


def answers(device: str, dtype: torch.dtype) -> list[Tensor]:
    """ε̂ of video, sound and frames, on the CPU, of networks whose weights keep activations near one."""
    assert CONFIG.sr is not None
    networks = build(CoupledUNet, CONFIG.base), build(SRUNet, CONFIG.sr)
    for network in networks:
        draw_weights(network)
    base, sr = (network.to(device).to_compute(dtype) for network in networks)
    evaluator = Evaluator(base, sr, NoiseSchedule.from_config(CONFIG.schedule))
    clips, frames = drawn_clips(CONFIG, 2), drawn_frames(CONFIG, 4)
    if device == "cpu":
        clips = [replace(request, x=request.x.map(Tensor.cpu)) for request in clips]
        frames = replace(frames, x=frames.x.cpu(), low_res=frames.low_res.cpu())
    first, second, large = evaluator([*clips, frames])
    parts = [torch.cat([first.eps[name], second.eps[name]]) for name in ("video", "audio")]
    return [part.float().cpu() for part in (*parts, large.eps)]


@pytest.fixture(scope="module")
def exact() -> list[Tensor]:
    return answers("cpu", torch.float32)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 5e-3), (torch.bfloat16, 3e-2)])
def test_predictions_on_the_device_are_those_of_the_cpu(exact: list[Tensor], dtype: torch.dtype, limit: float) -> None:
    for one, other in zip(answers("cuda", dtype), exact, strict=True):
        assert difference(one, other) < limit
