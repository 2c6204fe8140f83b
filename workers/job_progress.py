"""Progress and time remaining of a job whose outputs are made side by side."""

from __future__ import annotations

from collections.abc import Callable

from model.runtime.pipeline import StepProgress
from service.jobs.record import Progress


class JobProgress:
    """Combines the outputs of one job. `afterwards`: seconds from the last step until the job is completed."""

    def __init__(self, outputs: int, afterwards: Callable[[], float]) -> None:
        self._outputs = outputs
        self._afterwards = afterwards
        self._steps: dict[int, StepProgress] = {}
        self._output_seconds = 0.0
        self.changed = False
        """Whether an output has advanced since the last call of `progress()`."""

    def update(self, index: int, step: StepProgress) -> None:
        """Output `index` has finished `step`."""
        self._steps[index] = step
        self.changed = True

    def progress(self) -> Progress:
        """Of the job. Stage and step are those of the slowest output that has begun."""
        self.changed = False
        slowest = min(self._steps.values(), key=lambda step: step.fraction)
        done = sum(step.fraction for step in self._steps.values()) / self._outputs
        return Progress(slowest.stage, slowest.step, slowest.total_steps, round(done, 4), self._eta())

    def _eta(self) -> float | None:
        """Seconds until the job is completed. Outputs that have not begun start as the others end."""
        running = [step for step in self._steps.values() if step.fraction < 1]
        left = 0.0
        for step in running:
            if step.eta_seconds is None:
                return None
            left = max(left, step.eta_seconds)
            self._output_seconds = step.eta_seconds / (1 - step.fraction)
        rounds = -(-(self._outputs - len(self._steps)) // max(1, len(running)))
        return left + rounds * self._output_seconds + self._afterwards()
