"""Measures of `scenes`: real clips are recognised, shuffled ones are not, and the evaluation runs end to end."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from model.checkpoint.manifest import Manifest
from model.evaluation import report
from model.evaluation.bootstrap import Score, scores
from model.evaluation.classifiers.scene_networks import SCENE_WEIGHTS
from model.evaluation.classifiers.scene_training import event_frames
from model.evaluation.generation import REAL_SEED, EvaluationError, EvaluationRun
from model.evaluation.report import Watcher
from model.evaluation.scene_measures import SCENE_MEASURES, SceneDetections, detect_scenes
from model.evaluation.scene_report import data_of, evaluate_scenes, plan_scenes, real_scenes
from model.networks.config import PRESETS, ClipSpec
from model.request import SamplingParams
from model.runtime.pipeline import ClipRequest, Pipeline
from model.training.bounce import Bounce
from tests.tiny_model import TEXT

CLIP = ClipSpec(height=16, width=16, sample_rate=16_000)
WATCHER = Watcher(lambda run: None, lambda: None, lambda run, clips, result: None)


@cache
def real() -> SceneDetections:
    scenes = real_scenes(CLIP, "train", 64)
    return detect_scenes(scenes.clips, scenes.truth, CLIP)


def by_name(found: list[Score]) -> dict[str, Score]:
    return {score.measure: score for score in found}


def test_real_clips_are_recognised_and_shuffled_ones_are_not() -> None:
    found = by_name(scores(real(), real(), measures=SCENE_MEASURES))
    assert found["kind_heard"].value.value >= 0.9
    assert found["kind_seen"].value.value >= 0.95
    assert found["kinds_agree"].value.value >= 0.9
    assert found["values_heard"].value.value >= 0.8
    assert found["values_seen"].value.value >= 0.85
    assert found["event_f1"].value.value >= 0.7
    assert found["kind_heard"].floor.value < 0.1
    assert found["kinds_agree"].floor.value < 0.2
    assert found["values_seen"].floor.value < 0.6
    assert found["event_f1"].floor.value < found["event_f1"].value.value - 0.2
    assert all(score.normalised.value == pytest.approx(1) for score in found.values())


def test_shuffling_keeps_the_kind_of_events_and_swaps_half_of_the_values() -> None:
    whole = real()
    swapped = torch.stack([whole.shuffled(by).values != whole.values for by in range(1, 9)]).float().mean(0)
    assert (swapped[whole.values >= 0] == 0.5).all()
    assert (swapped[whole.values < 0] == 0).all()
    for by in range(1, 8):
        other = whole.shuffled(by)
        assert (other.asked != whole.asked).all()
        moved = (torch.arange(64)[:, None] + torch.arange(0, 64, 8)) % 64
        assert all((other.heard[i] == whole.heard[moved[i]]).all(1).any() for i in range(64))


def test_a_wrong_picture_lowers_the_kind_that_is_seen_only() -> None:
    wrong = replace(real(), seen_kind=(real().seen_kind + 1) % 8)
    found = by_name(scores(wrong, real(), measures=SCENE_MEASURES))
    assert found["kind_seen"].value.value < 0.1
    assert found["kinds_agree"].value.value < 0.1
    assert found["kind_heard"].normalised.value == pytest.approx(1)


def test_events_are_in_the_frames_of_their_times() -> None:
    frames = event_frames(torch.tensor([[0.0, 0.31, torch.inf], [1.59, torch.inf, torch.inf]]), CLIP)
    assert frames.nonzero().tolist() == [[0, 0], [0, 3], [1, 15]]


def test_clips_of_every_kind_are_needed() -> None:
    scenes = real_scenes(CLIP, "train", 12)
    with pytest.raises(ValueError, match="multiple of 8, at least 16; got 12"):
        detect_scenes(scenes.clips, scenes.truth, CLIP)


def test_the_shipped_weights_are_small() -> None:
    assert SCENE_WEIGHTS.stat().st_size < 300_000


def manifest(folder: Path) -> Manifest:
    return Manifest("tiny", PRESETS["tiny"], False, "untrained", "MIT", independent_timesteps=True, folder=folder)


def test_the_record_of_the_training_names_the_data(tmp_path: Path) -> None:
    model = manifest(tmp_path)
    assert data_of(model) == "bounce"
    for source, data in (("scenes", "scenes"), ("folder", "bounce"), ("bounce", "bounce")):
        (tmp_path / "training-base.json").write_text(json.dumps({"data": {"source": source}}))
        assert data_of(model) == data


def test_a_model_is_evaluated_on_scenes(tmp_path: Path) -> None:
    model = manifest(tmp_path)
    runs = [EvaluationRun("joint", None, "train"), EvaluationRun("v2a", "clean", "held_out")]
    assert plan_scenes(runs, model, held_out=True) == runs
    data = json.loads(evaluate_scenes(model, runs, 16, SamplingParams(0, steps=1), WATCHER, "cpu").to_json())
    joint, v2a = data["runs"]
    assert data["data"] == "scenes"
    assert set(joint["scores"]) == {"kinds_agree", "event_f1"}
    assert set(v2a["scores"]) == {measure.name for measure in SCENE_MEASURES}
    # The video is real, and is recognised; the sound of an untrained model is not.
    assert v2a["scores"]["kind_seen"]["value"]["value"] > 0.6
    assert v2a["scores"]["kind_heard"]["value"]["value"] < 0.6
    assert set(v2a["distances"]) == {"log_mel"}
    with pytest.raises(EvaluationError, match="multiple of 8"):
        evaluate_scenes(model, runs, 20, SamplingParams(0), WATCHER, "cpu")


@pytest.mark.slow
def test_joint_clips_of_a_model_that_takes_prompts_have_one_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []
    program = Pipeline.program

    def noted(pipeline: Pipeline, request: ClipRequest, *rest: Any) -> Any:
        if isinstance(request.index, int) and request.params.steps == 1:
            asked.append(request.params.prompt)
        return program(pipeline, request, *rest)

    monkeypatch.setattr(Pipeline, "program", noted)
    base = replace(PRESETS["tiny"].base, text=256)
    model = replace(manifest(tmp_path), config=replace(PRESETS["tiny"], base=base), text=TEXT)
    runs = plan_scenes([EvaluationRun("joint", None, "train")], model, held_out=True)
    assert [run.name for run in runs] == ["joint", "joint held out"]
    data = json.loads(evaluate_scenes(model, runs, 16, SamplingParams(0, steps=1), WATCHER, "cpu").to_json())
    assert set(data["runs"][1]["scores"]) == {measure.name for measure in SCENE_MEASURES}
    wanted = [real_scenes(model.config.clip, split, 16).captions for split in ("train", "held_out")]
    assert asked[-32:] == wanted[0] + wanted[1]
    asked.clear()
    report.evaluate(model, runs[:1], 3, SamplingParams(0, steps=1), WATCHER, "cpu")
    assert asked[-3:] == Bounce(model.config.clip, REAL_SEED, "train").captions(torch.arange(3))
