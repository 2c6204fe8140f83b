"""Measures of edits on clips of `bounce`, whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from model.evaluation.bootstrap import ratio_interval
from model.evaluation.editing import (
    METHODS,
    EditTask,
    Method,
    allowed_methods,
    compared,
    edit_tasks,
    evaluate_edits,
    real_clips,
)
from model.networks.config import PRESETS
from model.request import SamplingParams
from model.runtime.edit import EditCondition
from model.sampling.latents import Latents
from tests.model.evaluation.test_evaluate import manifest

SPEC = replace(PRESETS["demo"].clip, height=16, width=16, sample_rate=8000)
TASKS = {task.name: task for task in edit_tasks(SPEC)}


def scores(task: EditTask, made: Latents, real: Latents) -> dict[str, float]:
    return {name: ratio_interval(terms).value for name, terms in task.measure(made, real).items()}


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_real_clips_score_better_than_unrelated_ones(task: EditTask) -> None:
    real = real_clips(task, 12)
    # Only kinds that need no model.
    others = compared(None, replace(task, of_whole=None), SamplingParams(0), real, lambda: None)  # type: ignore[arg-type]
    best, worst = scores(task, others["real"], real), scores(task, others["unrelated"], real)
    higher = {"onset_f1", "hue", "inside"}
    assert all((best[name] > worst[name]) == (name in higher) for name in best)
    assert best.get("place", 0.0) == best.get("speed_border", 0.0) == 0.0
    assert best.get("inside", 1.0) == 1.0


def test_a_jump_at_the_border_is_seen_and_heard() -> None:
    task = TASKS["extend"]
    real = real_clips(task, 4)
    moved = real.map(torch.clone)
    half = SPEC.frames // 2
    moved["video"][:, half:] = moved["video"][:, half:].roll(4, -1)
    moved["audio"][..., SPEC.samples // 2 :] += 0.3
    before, after = scores(task, real, real), scores(task, moved, real)
    assert after["step"] > 5 * before["step"]
    assert after["change"] > before["change"]
    assert 0.1 < after["place_border"] < 0.5  # a quarter of a width, some discs come back in at the other side
    assert after["speed_border"] > 0.1


def test_the_edit_of_a_clip_is_what_is_measured() -> None:
    real = real_clips(TASKS["region"], 2)
    for task in TASKS.values():
        condition = task.condition(real["video"][0], real["audio"][0])
        assert isinstance(condition, EditCondition)
        condition.check(SPEC, None)
        assert condition.makes == tuple(n for n in ("video", "audio") if getattr(task, n))
        joined = task.joined(real, real.map(lambda value: value * 0 + 9))
        assert torch.equal((joined["audio"][0, 0] == 9), condition.new_audio)
        assert torch.equal((joined["video"][0, :, 0] == 9), condition.new_video)


def test_methods_that_need_a_calibration_are_left_out_without_one() -> None:
    assert allowed_methods(manifest(independent_timesteps=True)) == (Method("replacement"), Method("clean"))
    calibrated = manifest(independent_timesteps=True, calibration={"times": [0.0], "video": [0.1], "audio": [0.1]})
    assert allowed_methods(calibrated) == METHODS


@pytest.mark.slow
def test_every_edit_is_made_and_measured() -> None:
    tiny = manifest(independent_timesteps=True)
    rows = []
    found = evaluate_edits(
        tiny, allowed_methods(tiny), 2, SamplingParams(0, steps=2), on_row=lambda row, clips: rows.append(row)
    )
    assert tuple(rows) == found.rows
    assert [row.method for row in found.rows if row.task == "retake sound"] == [
        "real",
        "v2a of the whole",
        "unrelated",
        "replacement",
        "replacement, as written",
        "clean",
        "clean, as written",
    ]
    assert '"retake video"' in found.to_json()
