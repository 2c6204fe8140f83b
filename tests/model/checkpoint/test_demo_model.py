"""The demo model: its files, its reproducibility, and that it has learned."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open

from benchmarks.demo_model import PARTS, tables
from benchmarks.publish_demo import MAX_BYTES
from model.checkpoint.manifest import BUILTIN, find_models
from model.evaluation.generation import EvaluationRun, has_captions
from model.evaluation.report import Watcher, evaluate
from model.evaluation.scene_report import data_of, evaluate_scenes
from model.networks.config import PRESETS
from model.request import SamplingParams, allowed_guidance
from model.runtime.pipeline import Pipeline
from model.training.configuration import configuration_from_json
from tests.model.checkpoint import demo_clip

FOLDER = BUILTIN / "demo"
CLIPS, STEPS = 16, 10
"""Enough to distinguish a trained model from an untrained one, and few enough for the largest network that may ship. 16
is the least that `evaluate_scenes` takes. The figures of docs/demo-model.md use 256 clips and 20 steps."""


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return demo_clip.pipeline()


def test_the_demo_model_is_small_and_described() -> None:
    manifest = find_models()["demo"]
    assert manifest.trained
    assert manifest.licence == "MIT"
    assert {"clean", "pigdm"} <= set(allowed_guidance("v2a", manifest))
    weights = [FOLDER / name for name in (manifest.base_weights, manifest.sr_weights) if name]
    assert len(weights) == 2
    assert sum(path.stat().st_size for path in weights) <= MAX_BYTES
    parameters = []
    for path in weights:
        with safe_open(path, "pt") as file:
            tensors = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118 - it is no mapping
        assert {tensor.dtype for tensor in tensors} == {torch.float16}
        parameters.append(f"{sum(tensor.numel() for tensor in tensors) / 1e6:.1f} M")
    described = f"coupled U-Net of {parameters[0]} parameters"
    assert all(words in PARTS.written("facts") for words in (described, f"super-resolution of {parameters[1]}"))


@pytest.mark.parametrize("part", ["base", "sr"])
def test_the_training_configuration_is_beside_the_weights(part: str) -> None:
    record = json.loads((FOLDER / f"training-{part}.json").read_text())
    assert record.pop("step") > 0
    assert record.pop("seconds") > 0
    config = configuration_from_json(json.dumps(record))
    manifest = find_models()["demo"]
    assert getattr(config.model, part) == getattr(manifest.config, part)
    assert config.model.clip == manifest.config.clip
    preset, base = PRESETS[config.preset], manifest.config.base
    words = {"text": base.text, "text_attention_scales": base.text_attention_scales}
    assert manifest.config == replace(preset, base=replace(preset.base, **words))
    header, *rows = (FOLDER / f"losses-{part}.csv").read_text().splitlines()
    column = header.split(",").index("loss")
    losses = [float(row.split(",")[column]) for row in rows]
    assert sum(losses[-20:]) < sum(losses[:20])


def test_the_documentation_has_the_measured_figures() -> None:
    manifest = find_models()["demo"]
    evaluation = json.loads((FOLDER / "evaluation.json").read_text())
    assert evaluation["weights"] == manifest.weights_hash, "the figures are of other weights"
    assert evaluation["clips"] >= 256
    for name, content in tables(manifest).items():
        assert PARTS.written(name) == content, "run python -m benchmarks.demo_model"


def test_a_seed_gives_the_recorded_clip(pipeline: Pipeline) -> None:
    before, now = demo_clip.recorded(), demo_clip.made(pipeline)
    for name in ("small", "large"):
        difference = (now[name].int() - before[name].int()).abs()
        assert difference.max() <= 2, f"{name}: rounding may move a pixel by a level, not more"
        assert difference.float().mean() < 0.1
    torch.testing.assert_close(now["audio"], before["audio"], atol=2e-3, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["joint", "v2a", "a2v"])
def test_sound_and_picture_match(kind: str) -> None:
    """In what the model was trained for: impacts of discs, or the kinds of scenes."""
    manifest = find_models()["demo"]
    measure, name = (evaluate_scenes, "kinds_agree") if data_of(manifest) == "scenes" else (evaluate, "onset_f1")
    run = EvaluationRun(kind, None if kind == "joint" else "clean", "train")
    unwatched = Watcher(begins=lambda run: None, clip=lambda: None, ends=lambda run, made, result: None)
    params = SamplingParams(0, steps=STEPS)
    if has_captions(run, params, manifest):
        params = replace(params, prompt_scale=1.0)  # one prediction in every step
    found = measure(manifest, [run], CLIPS, params, unwatched, "cpu", "float32")
    (score,) = (each for each in found.results[0].scores if each.measure == name)
    assert score.value.low > score.floor.high, "sound and picture match no better than those of shuffled clips"
