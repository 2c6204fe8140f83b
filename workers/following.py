"""How far a job is whose outputs are made side by side, and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from model.pipeline import Progress as ClipProgress
from service.jobs.record import Progress


class Typical:
    """A running mean of seconds."""

    WEIGHT = 0.3
    """Of the latest value."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._known = False

    def add(self, seconds: float) -> None:
        self.seconds = self.WEIGHT * seconds + (1 - self.WEIGHT) * self.seconds if self._known else seconds
        self._known = True

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Add what the block takes."""
        began = time.perf_counter()
        yield
        self.add(time.perf_counter() - began)


class Following:
    """The outputs of one job. `encoding`: what writing the files of an output takes, which comes after its steps."""

    def __init__(self, outputs: int, encoding: Typical) -> None:
        self._outputs = outputs
        self._encoding = encoding
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
        """Until the last output is written. Outputs that have not begun take their turn after the others."""
        left = last.eta_seconds
        if left is None:
            return None
        waiting = self._outputs - len(self._steps)
        if waiting and last.fraction < 1:
            rounds = -(-waiting // len(self._steps))
            left += rounds * left / (1 - last.fraction)
        return left + self._encoding.seconds
