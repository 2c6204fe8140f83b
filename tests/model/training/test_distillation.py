"""Distillation: the student's targets by a teacher whose exact flow is known, and whole runs of the small model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from duet.cli.train import train as command
from model.checkpoint.loading import CheckpointError
from model.checkpoint.manifest import FILE_NAME, read_manifest
from model.request import SamplingParams
from model.runtime.evaluator import Evaluator, Request
from model.runtime.pipeline import ClipRequest, Pipeline
from model.sampling.latents import Latents
from model.sampling.samplers import Evaluate, Prediction
from model.sampling.schedule import CLEAN, NoiseSchedule, linear_betas
from model.sampling.tuned_solver import solver_name
from model.training.checkpoints import StateError, checkpoints, read_checkpoint
from model.training.configuration import ConfigurationError, TrainingConfig
from model.training.distillation import GIVEN_TO, DistillationObjective, student_solvers
from model.training.distillation_config import DistillationConfig
from model.training.sources import open_sources
from model.training.training_log import LOSSES, read_rows
from tests.model.sampling.analytic import Mixture
from tests.model.training.runs import run, small, to_toml

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


def distilled(teacher: Path, **changes: object) -> TrainingConfig:
    wanted = {"teacher": str(teacher), "evaluations": 3, "teacher_steps": 2}
    wanted |= changes.pop("distillation", {})  # type: ignore[operator]
    return small(distillation=wanted, output={"tensorboard": False}, **changes)


@pytest.mark.parametrize("given", [None, "video", "audio"])
def test_the_student_learns_the_steps_of_the_teacher(teacher: Path, given: str | None) -> None:
    """With the exact denoiser as teacher, a step by the target follows the exact flow."""
    objective = DistillationObjective(distilled(teacher, distillation={"teacher_steps": 40}), CPU, torch.float32)
    schedule = objective.schedule
    target = Mixture(schedule, (-0.4, 0.4), 0.1)

    def answer(requests: Sequence[Evaluate]) -> list[Prediction]:
        (request,) = requests
        assert (request.t_video == 0) == (given == "video")
        assert (request.t_audio == 0) == (given == "audio")
        return [Prediction(request.x.map(lambda x: target.eps(x, request.t)))]

    objective.teacher = answer  # type: ignore[assignment]
    draws = torch.Generator().manual_seed(0)
    noise = Latents(*(torch.randn(2, 3, 5, generator=draws, dtype=torch.float64) for _ in range(2)))
    x0 = noise.map(lambda value: 0.4 * value.sign())
    made = [name for name in ("video", "audio") if name != given]
    for t, s in pairwise(objective.times):
        x = schedule.add_noise(x0, t, noise)
        found = objective._target(x, x0, noise, given, t, s, None)
        of_x = schedule.sigma(s) / schedule.sigma(t) if s != CLEAN else 0.0
        of_x0 = schedule.alpha(s) - of_x * schedule.alpha(t) if s != CLEAN else 1.0
        for name in made:
            exact = target.flow(x[name], t, max(s, 0.0))
            torch.testing.assert_close(of_x * x[name] + of_x0 * found[name], exact, rtol=0, atol=0.02)
        if given is not None:
            assert torch.equal(found[given], x0[given])


def test_a_run_learns_and_resumes_to_the_same_weights(teacher: Path, tmp_path: Path) -> None:
    def quick(steps: int) -> TrainingConfig:
        wanted = {"evaluations": 2, "teacher_steps": 1}
        return distilled(teacher, steps=steps, times={"shared_t": 0.6}, batch=2, distillation=wanted)

    ready, done = run(quick(10), tmp_path / "whole")
    assert done
    losses = [row["loss"] for row in read_rows(tmp_path / "whole" / LOSSES)]
    learned = 0.0
    for step in range(3):
        inputs = next(ready.objective.inputs(ready.source, step, range(2)))
        with torch.no_grad():
            terms = ready.objective.losses(ready.gradients.predict.eval(), inputs)
        learned += sum(float(term.sum) for term in terms.values()) / 2
    assert learned < 0.8 * sum(losses[:3])
    run(quick(6), tmp_path / "parts")
    run(quick(10), tmp_path / "parts")
    assert [row["loss"] for row in read_rows(tmp_path / "parts" / LOSSES)] == losses
    whole, parts = (
        read_checkpoint(checkpoints(tmp_path / name / "checkpoints")[-1])["average"] for name in ("whole", "parts")
    )
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


def test_accumulation_gives_the_loss_of_the_whole_batch(teacher: Path, tmp_path: Path) -> None:
    """Each sample learns the same step of the student, wherever its part begins."""
    wanted = {"evaluations": 3, "teacher_steps": 1}
    run(distilled(teacher, steps=1, distillation=wanted), tmp_path / "whole")
    run(distilled(teacher, steps=1, distillation=wanted, accumulate=2), tmp_path / "parts")
    whole, parts = ([row["loss"] for row in read_rows(tmp_path / name / LOSSES)] for name in ("whole", "parts"))
    assert parts == pytest.approx(whole, rel=1e-4)


def test_the_command_trains_and_publishes_a_model_of_few_evaluations(teacher: Path, tmp_path: Path) -> None:
    config, out, model = tmp_path / "small.toml", tmp_path / "run", tmp_path / "model"
    config.write_text(to_toml(steps=1, distillation={"evaluations": 3, "teacher_steps": 1}))
    command(config, out=out, distill=teacher, device="cpu")
    command(config, out=out, distill=teacher, device="cpu", publish=model)
    manifest = read_manifest(model / FILE_NAME)
    assert manifest.tuned is not None
    assert {name: list(found) for name, found in manifest.tuned.base.items()} == {
        "generate": [3],
        "v2a clean": [3],
        "a2v clean": [3],
    }
    pipeline = Pipeline.load(manifest, CPU, "float32")
    evaluator, asked = pipeline.evaluator, []

    class Counting(Evaluator):
        def __call__(self, requests: Sequence[Request]) -> list[Prediction]:
            asked.extend(requests)
            return super().__call__(requests)

    evaluator.__class__ = Counting
    clip = pipeline.run(ClipRequest("generate", SamplingParams(seed=1, sampler="tuned", steps=3)))
    assert clip.frames is not None
    assert [request.t for request in asked] == DistillationConfig(evaluations=3).times(pipeline.schedule)[:-1]


@pytest.mark.parametrize(
    ("times", "kinds"),
    [
        ({"shared_t": 1.0, "clean_video": 0.0, "clean_audio": 0.0}, {"generate"}),
        ({"shared_t": 0.0, "clean_video": 0.5, "clean_audio": 0.0}, {"v2a clean"}),
        ({"shared_t": 0.5, "clean_video": 0.0, "clean_audio": 0.5}, {"generate", "a2v clean"}),
        ({"independent_timesteps": False}, {"generate"}),
    ],
)
def test_only_kinds_of_jobs_that_were_distilled_get_solvers(
    teacher: Path, tmp_path: Path, times: dict[str, object], kinds: set[str]
) -> None:
    config = distilled(teacher, times=times)
    source, _ = open_sources(config, tmp_path, print)
    assert set(student_solvers(config, source, CPU).base) == kinds
    objective = DistillationObjective(config, CPU, torch.float32)
    drawn = {objective._draw_given(step) for step in range(40)}
    assert {solver_name(GIVEN_TO[given], None if given is None else "clean") for given in drawn} == kinds


def test_a_run_is_not_resumed_without_its_teacher(teacher: Path, tmp_path: Path) -> None:
    run(distilled(teacher, steps=1), tmp_path)
    plain = replace(distilled(teacher, steps=2), distillation=DistillationConfig(evaluations=3, teacher_steps=2))
    with pytest.raises(StateError, match=r"distillation\.teacher was"):
        run(plain, tmp_path)


def test_a_teacher_of_other_clips_is_refused(teacher: Path) -> None:
    with pytest.raises(CheckpointError, match="has the clip"):
        DistillationObjective(distilled(teacher, clip={"frames": 16}), CPU, torch.float32)


def test_a_teacher_that_cannot_take_clean_conditions_is_refused(teacher: Path, tmp_path: Path) -> None:
    manifest = replace(read_manifest(teacher / FILE_NAME), independent_timesteps=False)
    manifest.write(tmp_path)
    with pytest.raises(CheckpointError, match=r"without times\.independent_timesteps"):
        DistillationObjective(distilled(tmp_path), CPU, torch.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distillation": {"evaluations": 0}}, "evaluations and teacher_steps must be at least 1; got 0 and 2"),
        ({"distillation": {"first_log_snr": 2.0}}, "first_log_snr must be below last_log_snr; got 2 and 1.5"),
        ({"kind": "sr"}, "distillation.teacher is for base networks without text"),
    ],
)
def test_settings_that_cannot_be_used_are_named(teacher: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        distilled(teacher, **changes)


def test_more_evaluations_than_times_are_refused() -> None:
    schedule = NoiseSchedule(linear_betas(1000))
    with pytest.raises(ValueError, match="2000 evaluations"):
        DistillationConfig(evaluations=2000).times(schedule)
