"""Exponential moving average of durations."""

from __future__ import annotations

from collections import defaultdict


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


class WritingTimes:
    """How long the files of an output take to write after its last step, by kind of job: of clips of one window, and
    for each window of longer ones."""

    def __init__(self) -> None:
        self._averages: defaultdict[tuple[str, bool], MovingAverage] = defaultdict(MovingAverage)

    def expected(self, kind: str, windows: int) -> float:
        """Seconds for a clip of so many windows; 0 before there was any of its kind and length."""
        return self._averages[kind, windows > 1].seconds * windows

    def add(self, kind: str, windows: int, seconds: float) -> None:
        """An output of so many windows took `seconds`."""
        self._averages[kind, windows > 1].add(seconds / windows)
