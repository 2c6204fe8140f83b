"""Which outputs of a job are kept, by their scores. Without torch, which whoever delivers results need not load."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from model.request import RANKINGS
from service.jobs.record import Scores


def ranked(scores: Iterable[tuple[int, Scores]], rank_by: str) -> list[int]:
    """Indices of the outputs, best first: by the score `rank_by`, then by the others. The smallest absolute lag is the
    best. A score that cannot be said is the worst."""
    order = (rank_by, *(name for name in RANKINGS if name != rank_by))

    def badness(output: tuple[int, Scores]) -> tuple[float, ...]:
        values = ((name, getattr(output[1], name)) for name in order)
        return *(
            math.inf if value is None else abs(value) if name == "lag" else -value for name, value in values
        ), output[0]

    return [index for index, _ in sorted(scores, key=badness)]


def kept(scores: Mapping[int, Scores], count: int, keep: int | None, rank_by: str | None) -> list[int]:
    """Indices of the outputs to keep of `count`: without `keep` all in their order, else the best, best first."""
    if keep is None:
        return list(range(count))
    return ranked([(index, scores.get(index, Scores())) for index in range(count)], rank_by or RANKINGS[0])[:keep]
