"""The parts of a clip on their way from the engine to the thread that writes them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

from model.runtime.pipeline import ClipPart

MOST = 4
"""Parts that wait to be written before the engine leaves the clip alone."""


class PartQueue:
    """Iterate over it for the parts of one clip, in order; the iteration ends as its run does, and raises the run's
    error.

    parts = PartQueue()
    run = engine.submit(evaluator, pipeline.program(request, on_progress, parts.put), long=True, held=parts.full)
    run.add_done_callback(parts.end)
    for part in parts: ...
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._items: SimpleQueue[ClipPart | Future[Any]] = SimpleQueue()

    def put(self, part: ClipPart) -> None:
        """Add a part. Never waits."""
        self._items.put(part)

    def full(self) -> bool:
        """Whether as many parts wait as may."""
        return self._items.qsize() >= self._most

    def end(self, run: Future[Any]) -> None:
        """The run has ended: no part follows."""
        self._items.put(run)

    def __iter__(self) -> Iterator[ClipPart]:
        while isinstance(item := self._items.get(), ClipPart):
            yield item
        error = item.exception()
        if error is not None:
            raise error
