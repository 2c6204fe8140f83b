"""What something typically takes: a running mean."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


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
