"""How far a job is whose outputs are made side by side, and how long it will take."""

from __future__ import annotations

from collections.abc import Callable

from model.pipeline import Progress as ClipProgress
from service.jobs.record import Progress


class Following:
    """The outputs of one job. `afterwards`: seconds that a job takes when all steps are done."""

    def __init__(self, outputs: int, afterwards: Callable[[], float]) -> None:
        self._outputs = outputs
        self._afterwards = afterwards
        self._steps: dict[int, ClipProgress] = {}
        self.news = False
        """Whether there was a step since `progress()` was asked for."""

    def step(self, index: int, step: ClipProgress) -> None:
        """Output `index` has come so far."""
        self._steps[index] = step
        self.news = True

    def progress(self) -> Progress:
        """Of the job: stage and step are those of the output that is furthest back of those that have begun."""
        self.news = False
        last = min(self._steps.values(), key=lambda step: step.fraction)
        done = sum(step.fraction for step in self._steps.values()) / self._outputs
        return Progress(last.stage, last.step, last.total_steps, round(done, 4), self._eta(last))

    def _eta(self, last: ClipProgress) -> float | None:
        """Until the job is completed. Outputs that have not begun take their turn after the others."""
        left = last.eta_seconds
        if left is None:
            return None
        waiting = self._outputs - len(self._steps)
        if waiting and last.fraction < 1:
            rounds = -(-waiting // len(self._steps))
            left += rounds * left / (1 - last.fraction)
        return left + self._afterwards()
