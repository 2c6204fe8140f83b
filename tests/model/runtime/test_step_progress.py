"""Progress and time left where steps take different numbers of forwards."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch

from model.runtime import step_progress
from model.runtime.step_progress import ClipPreview, Reporter, Stage, StepProgress
from model.sampling.latents import Latents
from model.sampling.samplers import Evaluate, Prediction, Sampler

FORWARDS = (2, 2, 2, 1, 1)


def test_work_is_that_of_the_steps_that_are_left() -> None:
    stage = Stage(5, windows=3, forwards=FORWARDS)
    assert [stage.work_left(left) for left in (5, 3, 2, 0)] == [24, 12, 6, 0]
    assert stage.work_left(2.5) == 6 + 0.5 * 6, "half of the third step"
    assert Stage(5, windows=3).work_left(2) == 6


def test_time_left_and_share_are_exact_where_a_forward_takes_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(step_progress.time, "perf_counter", lambda: clock[0])
    seen: list[StepProgress] = []
    seconds: dict[str, float] = {}

    def sampler() -> Sampler:
        x = Latents(torch.zeros(1), None)
        for step in range(len(FORWARDS)):
            yield Evaluate(x, float(step), 0.0)
        return x

    reporter = Reporter({"base": Stage(len(FORWARDS), forwards=FORWARDS)}, seconds, seen.append)
    followed = reporter.follow(sampler(), "base", lambda request, prediction: lambda: ClipPreview(None, None))
    request = next(followed)
    with suppress(StopIteration):
        for forwards in FORWARDS:
            clock[0] += forwards
            request = followed.send(Prediction(request.x))
    assert [each.eta_seconds for each in seen] == pytest.approx([6, 4, 2, 1, 0])
    assert [each.fraction for each in seen] == pytest.approx([2 / 8, 4 / 8, 6 / 8, 7 / 8, 1])
    assert seconds["base"] == pytest.approx(1), "of a forward, which later clips begin with"
