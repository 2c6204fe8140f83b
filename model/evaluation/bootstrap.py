"""Confidence intervals: percentiles over clips resampled with replacement (bootstrap; Efron, 1979)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

from model.evaluation.alignment import MEASURES, Measure
from model.evaluation.intervals import Interval

RESAMPLES = 1000
LEVEL = 0.95
SHUFFLES = 8
"""Number of other clips that each sound is paired with, for the floor."""


class Shufflable(Protocol):
    """What was detected in a set of clips."""

    @property
    def clips(self) -> int:
        """Their number."""
        ...

    def shuffled(self, by: int) -> Self:
        """Each clip's sound paired with the picture of another clip, a different one for each `by` ≥ 1."""
        ...


@dataclass(frozen=True)
class Score:
    """One measure of a set of clips. `floor`: of the same sounds paired with other clips' pictures. `ceiling`: of real
    clips, the limit of detectors and measure. `normalised`: (value - floor) / (ceiling - floor)."""

    measure: str
    value: Interval
    floor: Interval
    ceiling: Interval
    normalised: Interval


def scores(made: Shufflable, real: Shufflable, seed: int = 0, measures: Sequence[Measure] = MEASURES) -> list[Score]:
    """The `measures` of the clips `made`, relative to `real` ones. Raises ValueError for fewer than two clips."""
    for found, what in ((made, "generated clips"), (real, "real clips")):
        if found.clips < 2:
            raise ValueError(f"the number of {what} must be at least 2; got {found.clips}")
    draws = torch.Generator().manual_seed(seed)
    own, others = (resample_weights(found.clips, draws) for found in (made, real))
    answers = []
    for measure in measures:
        value = _resampled(measure, [measure.statistics(made)], own)
        floor = _resampled(measure, _shuffled(measure, made), own)
        ceiling = _resampled(measure, [measure.statistics(real)], others)
        room = ceiling - floor
        normalised = torch.where(room.abs() > 1e-6, (value - floor) / room, 0.0)
        answers.append(Score(measure.name, *(interval(each) for each in (value, floor, ceiling, normalised))))
    return answers


def ratio_interval(terms: Tensor, seed: int = 0) -> Interval:
    """Σ numerators / Σ denominators of `terms` (clips, 2), with its interval."""
    sums = resample_weights(len(terms), torch.Generator().manual_seed(seed)) @ terms.double()
    return interval(sums[:, 0] / sums[:, 1].clamp(min=1e-9))


def _shuffled(measure: Measure, found: Shufflable) -> list[Tensor]:
    count = found.clips
    return [measure.statistics(found.shuffled(by)) for by in range(1, min(SHUFFLES, count - 1) + 1)]


def resample_weights(clips: int, draws: torch.Generator) -> Tensor:
    """(1 + RESAMPLES, clips): how often each resample draws each clip; the first row draws each once."""
    drawn = torch.randint(0, clips, (RESAMPLES, clips), generator=draws)
    counts = torch.zeros(RESAMPLES, clips, dtype=torch.float64)
    counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
    return torch.cat([torch.ones(1, clips, dtype=torch.float64), counts])


def _resampled(measure: Measure, statistics: Sequence[Tensor], weights: Tensor) -> Tensor:
    """(1 + RESAMPLES,): the measure of all clips, then of each resample; `statistics` of several pairings are added."""
    return measure.value(weights @ torch.stack(list(statistics)).sum(0).double())


def interval(values: Tensor) -> Interval:
    """The first of `values`, with the interval of the others."""
    tail = (1 - LEVEL) / 2
    low, high = values[1:].quantile(torch.tensor([tail, 1 - tail], dtype=values.dtype)).tolist()
    return Interval(float(values[0]), low, high)
