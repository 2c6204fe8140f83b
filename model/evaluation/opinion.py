"""Statistics of opinion studies: mean opinion scores, Turing rates, and agreement between raters.

Raters and clips are both samples: a result should hold for other raters and other clips. Ratings of one rater resemble
each other, and so do ratings of one clip. The variance of a mean is therefore estimated with two-way clusters (Cameron,
Gelbach and Miller, "Robust inference with multiway clustering", 2011): V = V(raters) + V(clips) - V(ratings), where
V(clusters) = G / (G - 1) * sum over G clusters of (sum of deviations from the mean)^2 / n^2. It needs no complete
design. V is at least the larger of the first two. Intervals are mean ± t sqrt(V), with Student's t at
min(raters, clips) - 1 degrees of freedom. Where all ratings are equal, V is 0 and so is the width of the interval of a
mean opinion score; that does not mean that the score is known exactly. Near the ends of the scale coverage is untested.

Rates have Wilson's interval (Wilson, 1927) for the effective number of ratings p (1 - p) / V, with t instead of the
normal quantile (Korn and Graubard, 1998). Where all ratings agree, V says nothing, and the effective number is the
smaller of the numbers of raters and clips.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from model.evaluation.intervals import Interval

LEVEL = 0.95

SCALES = ("video", "sound", "match")
LOWEST, HIGHEST = 1, 5


@dataclass(frozen=True)
class Rating:
    """One rater's answers about one clip: three scores of 1 … 5, and whether it was judged to be real."""

    rater: str
    clip: str
    label: str
    video: int
    sound: int
    match: int
    real: bool


@dataclass(frozen=True)
class LabelOpinion:
    """The results of the clips of one label. `scores`: mean opinion score of each scale. `judged_real`: fraction of
    ratings that took a clip for real; `right`: fraction that were right about it."""

    label: str
    raters: int
    clips: int
    ratings: int
    scores: dict[str, Interval]
    judged_real: Interval
    right: Interval


@dataclass(frozen=True)
class Opinion:
    """The results of a study. `agreement`: Krippendorff's alpha of each question over all clips, NaN where it is not
    defined."""

    labels: tuple[LabelOpinion, ...]
    agreement: dict[str, float]


def summarise(ratings: Sequence[Rating], labels: Iterable[str], real: Iterable[str]) -> Opinion:
    """The results of `ratings`, by label in the order of `labels`; labels without ratings are left out. `real`: the
    labels of real clips."""
    known_real = frozenset(real)
    found = []
    for label in labels:
        own = [rating for rating in ratings if rating.label == label]
        if own:
            found.append(_label(label, own, label in known_real))
    return Opinion(tuple(found), {scale: _agreement(ratings, scale) for scale in (*SCALES, "real")})


def mean_opinion(values: np.ndarray, raters: np.ndarray, clips: np.ndarray) -> Interval:
    """Mean of `values` (ratings,) and its interval within the scale; `raters` and `clips` (ratings,) name the clusters.

    With a single rater or clip the interval is the whole scale.
    """
    mean = float(values.mean())
    reach = _quantile(raters, clips) * math.sqrt(mean_variance(values, raters, clips))
    if math.isnan(reach):
        reach = math.inf
    return Interval(mean, max(LOWEST, mean - reach), min(HIGHEST, mean + reach))


def rate(values: np.ndarray, raters: np.ndarray, clips: np.ndarray) -> Interval:
    """Fraction of `values` (ratings,) that are true, and its interval. With a single rater or clip it is 0 … 1."""
    share = float(values.mean())
    quantile = _quantile(raters, clips)
    if math.isinf(quantile):
        return Interval(share, 0.0, 1.0)
    variance = mean_variance(values.astype(float), raters, clips)
    number = share * (1 - share) / variance if variance > 0 else float(min(_count(raters), _count(clips)))
    number = min(number, float(len(values)))
    squared = quantile**2
    centre = (share + squared / (2 * number)) / (1 + squared / number)
    reach = quantile / (1 + squared / number) * math.sqrt(share * (1 - share) / number + squared / (4 * number**2))
    return Interval(share, max(0.0, centre - reach), min(1.0, centre + reach))


def mean_variance(values: np.ndarray, raters: np.ndarray, clips: np.ndarray) -> float:
    """Variance of the mean of `values` (ratings,) over new raters and new clips. NaN with a single rater or clip."""
    if min(_count(raters), _count(clips)) < 2:
        return math.nan
    deviations = values - values.mean()
    by_rater, by_clip, by_rating = (_clustered(deviations, names) for names in (raters, clips, np.arange(len(values))))
    return max(by_rater + by_clip - by_rating, by_rater, by_clip)


def krippendorff_alpha(units: Iterable[Sequence[int]], ordered: bool = True) -> float:
    """Krippendorff's alpha, ordinal or (not `ordered`) nominal: 1 is full agreement, 0 that of chance.

    `units`: the values that each unit was given; those of a single value do not count. NaN if all values are equal, or
    none can be compared. Krippendorff, "Computing Krippendorff's Alpha-Reliability", 2011.
    """
    paired = [list(unit) for unit in units if len(unit) > 1]
    names = sorted({value for unit in paired for value in unit})
    place = {name: index for index, name in enumerate(names)}
    coincidences = np.zeros((len(names), len(names)))
    for unit in paired:
        counts = np.bincount([place[value] for value in unit], minlength=len(names)).astype(float)
        coincidences += (np.outer(counts, counts) - np.diag(counts)) / (len(unit) - 1)
    totals = coincidences.sum(1)
    if ordered:
        middle = np.cumsum(totals) - totals / 2  # the sum of totals from c to k, half of the ends, is a difference
        distance = (middle[:, None] - middle[None, :]) ** 2
    else:
        distance = 1.0 - np.eye(len(names))
    expected = float((np.outer(totals, totals) * distance).sum())
    if expected == 0:
        return math.nan
    return 1 - (float(totals.sum()) - 1) * float((coincidences * distance).sum()) / expected


def _label(label: str, ratings: Sequence[Rating], is_real: bool) -> LabelOpinion:
    raters = np.array([rating.rater for rating in ratings])
    clips = np.array([rating.clip for rating in ratings])
    judged = np.array([rating.real for rating in ratings])
    scores = {
        scale: mean_opinion(np.array([getattr(rating, scale) for rating in ratings], float), raters, clips)
        for scale in SCALES
    }
    return LabelOpinion(
        label,
        _count(raters),
        _count(clips),
        len(ratings),
        scores,
        rate(judged, raters, clips),
        rate(judged == is_real, raters, clips),
    )


def _agreement(ratings: Sequence[Rating], question: str) -> float:
    units: dict[str, list[int]] = {}
    for rating in ratings:
        units.setdefault(rating.clip, []).append(int(getattr(rating, question)))
    return krippendorff_alpha(units.values(), ordered=question != "real")


def _clustered(deviations: np.ndarray, names: np.ndarray) -> float:
    _, index = np.unique(names, return_inverse=True)
    sums = np.bincount(index, weights=deviations)
    return float(len(sums) / (len(sums) - 1) * (sums**2).sum() / len(deviations) ** 2)


def _quantile(raters: np.ndarray, clips: np.ndarray) -> float:
    freedom = min(_count(raters), _count(clips)) - 1
    return float(student.ppf((1 + LEVEL) / 2, freedom)) if freedom > 0 else math.inf


def _count(names: np.ndarray) -> int:
    return len(np.unique(names))
