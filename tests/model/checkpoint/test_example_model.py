"""The model in examples/models that takes prompts: its files belong together, and it follows words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from model.checkpoint.manifest import Manifest, find_models
from model.request import SamplingParams
from model.runtime.pipeline import ClipRequest, Pipeline

MODELS = Path(__file__).parents[3] / "examples" / "models"


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return find_models(MODELS)["scenes"]


def test_its_evaluation_is_of_its_weights(manifest: Manifest) -> None:
    evaluation = json.loads((MODELS / "scenes" / "evaluation.json").read_text(encoding="utf-8"))
    assert (evaluation["weights"], evaluation["data"]) == (manifest.weights_hash, "scenes")


def test_night_is_darker_than_day(manifest: Manifest) -> None:
    pipeline = Pipeline.load(manifest, "cpu", "float32")

    def brightness(prompt: str) -> float:
        params = SamplingParams(seed=3, prompt=prompt, prompt_scale=1, steps=4, super_resolution=False)
        frames = pipeline.run(ClipRequest("generate", params)).frames
        assert frames is not None
        return frames.to(torch.float32).mean().item()

    assert brightness("a campfire at night") < 0.5 * brightness("waves on a shore in daylight")
