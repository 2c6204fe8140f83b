"""What the engine says of the runs of one job, on its way from the engine's thread to the job's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

from model.runtime.engine import EngineRun
from model.runtime.pipeline import ClipPart, StepProgress

MOST = 4
"""Parts of an output that wait to be written before the engine leaves it alone."""

RunEvent = tuple[int, StepProgress | ClipPart | EngineRun]
"""Output `index` has finished a step, a part of it is ready, or its run has ended, after all of its parts."""


class RunEvents:
    """The events of a job with so many `outputs`, in order. `soon` passes a callback on to be called when the engine's
    thread has time (`Engine.soon`)."""

    def __init__(self, outputs: int, soon: Callable[[Callable[[], object]], None], most: int = MOST) -> None:
        self._items: SimpleQueue[RunEvent] = SimpleQueue()
        self._soon = soon
        self._most = most
        # Each list is changed by one thread only.
        self._made, self._written = [0] * outputs, [0] * outputs

    def step(self, index: int, step: StepProgress) -> None:
        """Output `index` has finished a step. In the engine's thread, as `part`."""
        self._soon(lambda: self._items.put((index, step)))

    def part(self, index: int, part: ClipPart) -> None:
        """A part of output `index` is ready. Never waits."""
        self._made[index] += 1
        self._soon(lambda: self._items.put((index, part)))

    def end(self, index: int, run: EngineRun) -> None:
        """The run of output `index` has ended."""
        self._soon(lambda: self._items.put((index, run)))

    def full(self, index: int) -> bool:
        """Whether as many parts of output `index` wait as may: its run is to be held."""
        return self._made[index] - self._written[index] >= self._most

    def written(self, index: int) -> None:
        """A part of output `index` does not wait any more. In the job's thread, as `take`."""
        self._written[index] += 1

    def take(self, seconds: float) -> list[RunEvent]:
        """All that wait; waits up to `seconds` for the first. Of several steps of one output only the latest."""
        taken: list[RunEvent] = []
        with suppress(Empty):
            taken.append(self._items.get(timeout=seconds))
            while True:
                taken.append(self._items.get_nowait())
        last = {index: item for index, item in taken if isinstance(item, StepProgress)}
        return [(index, item) for index, item in taken if not isinstance(item, StepProgress) or item is last[index]]
