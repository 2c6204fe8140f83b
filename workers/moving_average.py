"""Exponential moving average of durations."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class MovingAverage:
    """Exponential moving average; `seconds` is 0 before the first value."""

    WEIGHT = 0.3
    """Of the latest value."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._empty = True

    def add(self, seconds: float) -> None:
        self.seconds = seconds if self._empty else self.WEIGHT * seconds + (1 - self.WEIGHT) * self.seconds
        self._empty = False

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Add the duration of the block."""
        began = time.perf_counter()
        yield
        self.add(time.perf_counter() - began)
