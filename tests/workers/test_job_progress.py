"""Progress of a job with several outputs."""

from __future__ import annotations

import pytest

from model.runtime.pipeline import ClipPreview, StepProgress
from workers.job_progress import JobProgress
from workers.moving_average import MovingAverage, WritingTimes


def step(number: int, fraction: float, eta: float | None) -> StepProgress:
    return StepProgress("base", number, 20, fraction, eta, lambda: ClipPreview(None, None))


def test_stage_and_step_are_of_the_slowest_output_and_progress_of_all() -> None:
    progress = JobProgress(2, lambda: 0.5)
    progress.update(0, step(12, 0.6, 4.0))
    progress.update(1, step(8, 0.4, 6.0))
    assert progress.changed
    shown = progress.progress()
    assert not progress.changed
    assert (shown.step, shown.progress, shown.eta_seconds) == (8, 0.5, 6.5)


def test_waiting_outputs_add_to_the_remaining_time() -> None:
    progress = JobProgress(3, lambda: 0.0)
    progress.update(0, step(10, 0.5, 5.0))
    progress.update(1, step(10, 0.5, 5.0))
    shown = progress.progress()
    assert shown.progress == pytest.approx(1 / 3, abs=1e-4)
    assert shown.eta_seconds == 15.0  # 5 s for those that run, 10 s for the third after them


def test_ended_outputs_free_their_place_for_the_next() -> None:
    """Four outputs of 10 s, one at a time."""
    progress = JobProgress(4, lambda: 0.0)
    progress.update(0, step(10, 0.5, 5.0))
    assert progress.progress().eta_seconds == 35.0
    progress.update(0, step(20, 1.0, 0.0))
    assert progress.progress().eta_seconds == 30.0
    progress.update(1, step(10, 0.5, 5.0))
    assert progress.progress().eta_seconds == 25.0


def test_no_remaining_time_before_step_times_are_known() -> None:
    progress = JobProgress(1, lambda: 0.5)
    progress.update(0, step(1, 0.05, None))
    assert progress.progress().eta_seconds is None


def test_a_moving_average_follows_its_values() -> None:
    average = MovingAverage()
    assert average.seconds == 0.0
    for seconds in (2.0, *[1.0] * 20):
        average.add(seconds)
    assert average.seconds == pytest.approx(1.0, abs=0.01)


def test_writing_times_of_long_clips_count_by_window_and_not_for_short_ones() -> None:
    times = WritingTimes()
    assert times.expected("v2a", 10) == 0.0
    times.add("v2a", 1, 0.2)
    times.add("v2a", 40, 20.0)
    times.add("generate", 1, 3.0)
    assert times.expected("v2a", 1) == pytest.approx(0.2)
    assert times.expected("v2a", 10) == pytest.approx(5.0)
