"""The interval type that all evaluations report."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % confidence interval."""

    value: float
    low: float
    high: float

    @property
    def errors(self) -> tuple[float, float]:
        """Distances from the value down to `low` and up to `high`, at least 0."""
        return max(0.0, self.value - self.low), max(0.0, self.high - self.value)
