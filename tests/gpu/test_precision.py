"""bfloat16 against float32 on the device, and both against the CPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.checkpoint.manifest import Manifest
from model.networks.config import PRESETS
from model.runtime.pipeline import Pipeline
from model.sampling.samplers import Evaluate
from tests.gpu.conftest import drawn_clips, drawn_frames

MANIFEST = Manifest("tiny", PRESETS["tiny"], trained=False, description="", licence="MIT", init_seed=3)


def difference(one: Tensor, other: Tensor) -> float:
    """Relative L2 distance."""
    return float((one - other).norm() / other.norm())


def answers(device: str, dtype: str) -> list[Tensor]:
    """ε̂ of video, sound and frames, on the CPU."""
    pipeline = Pipeline.load(MANIFEST, device, dtype)
    clips: list[Evaluate] = drawn_clips(MANIFEST.config, 2)
    frames = drawn_frames(MANIFEST.config, 4)
    if device == "cpu":
        clips = [replace(request, x=request.x.map(Tensor.cpu)) for request in clips]
        frames = replace(frames, x=frames.x.cpu(), low_res=frames.low_res.cpu())
    first, second, large = pipeline.evaluator([*clips, frames])
    parts = [torch.cat([first.eps[name], second.eps[name]]) for name in ("video", "audio")]
    return [part.float().cpu() for part in (*parts, large.eps)]


@pytest.fixture(scope="module")
def exact() -> list[Tensor]:
    return answers("cpu", "float32")


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 2e-3), ("bfloat16", 3e-2)])
def test_predictions_on_the_device_are_those_of_the_cpu(exact: list[Tensor], dtype: str, limit: float) -> None:
    for one, other in zip(answers("cuda", dtype), exact, strict=True):
        assert difference(one, other) < limit
