"""How far a job is whose outputs are made side by side, and how long it will take."""

from __future__ import annotations

from collections.abc import Callable

from model.runtime.pipeline import StepProgress
from service.jobs.record import Progress


class Following:
    """The outputs of one job. `afterwards`: seconds that a job takes when all steps are done."""

    def __init__(self, outputs: int, afterwards: Callable[[], float]) -> None:
        self._outputs = outputs
        self._afterwards = afterwards
        self._steps: dict[int, StepProgress] = {}
        self._whole = 0.0
        self.news = False
        """Whether there was a step since `progress()` was asked for."""

    def step(self, index: int, step: StepProgress) -> None:
        """Output `index` has come so far."""
        self._steps[index] = step
        self.news = True

    def progress(self) -> Progress:
        """Of the job: stage and step are those of the output that is furthest back of those that have begun."""
        self.news = False
        last = min(self._steps.values(), key=lambda step: step.fraction)
        done = sum(step.fraction for step in self._steps.values()) / self._outputs
        return Progress(last.stage, last.step, last.total_steps, round(done, 4), self._eta())

    def _eta(self) -> float | None:
        """Until the job is completed. Outputs that have not begun take their turn after the others."""
        running = [step for step in self._steps.values() if step.fraction < 1]
        left = 0.0
        for step in running:
            if step.eta_seconds is None:
                return None
            left = max(left, step.eta_seconds)
            self._whole = step.eta_seconds / (1 - step.fraction)
        rounds = -(-(self._outputs - len(self._steps)) // max(1, len(running)))
        return left + rounds * self._whole + self._afterwards()
