"""Decides whether a mark is present, at a false-positive rate that accounts for every alignment tried.

A score is a sum over many frequencies of the cosine between the phase of the file and that of the key, divided by its
standard deviation √(n/2). If the file does not depend on the key, the terms are independent with mean zero, whatever
the file is, so the score is close to standard normal. With `tests` alignments the chance that the greatest exceeds s is
at most tests · Q(s), Q being the upper tail of the normal distribution (Bonferroni).
"""

from __future__ import annotations

from dataclasses import dataclass

from scipy.special import ndtr, ndtri

FALSE_POSITIVE_RATE = 1e-4
"""Of one modality of one file."""

NOMINAL_RATE = FALSE_POSITIVE_RATE / 10
"""The bound that a mark must reach. Of 10,000 sounds without one, three reached the score that theory gives a chance of
1e-4, where one was expected."""


@dataclass(frozen=True)
class Finding:
    """The greatest score of a file, and the seconds [start, end) in which it was reached. `chance`: upper bound of the
    probability that a file without the mark reaches it. `threshold`: the score at NOMINAL_RATE."""

    found: bool
    score: float
    threshold: float
    chance: float
    start: float
    end: float


@dataclass(frozen=True)
class Score:
    """The greatest score within [start, end) seconds."""

    value: float
    start: float
    end: float


def judged(scores: list[Score], tests: int) -> Finding:
    """The finding from the scores of all windows of a file, each the greatest of `tests` alignments."""
    best, count = max(scores, key=lambda score: score.value), tests * len(scores)
    chance = min(1.0, count * float(ndtr(-best.value)))
    threshold = -float(ndtri(NOMINAL_RATE / count))
    return Finding(best.value >= threshold, best.value, threshold, chance, best.start, best.end)


def windows(seconds: int) -> list[tuple[int, int]]:
    """The windows (first, last), in whole seconds, that are searched for a mark: the whole file and, if that is longer
    than three seconds, every two neighbouring seconds, because only a part of an edited file has a mark."""
    return [(0, seconds)] + ([(first, first + 2) for first in range(seconds - 1)] if seconds > 3 else [])
