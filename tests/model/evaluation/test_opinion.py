"""Opinion studies with simulated raters, whose true opinions are known; agreement against published examples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from model.evaluation.intervals import Interval
from model.evaluation.opinion import (
    Rating,
    krippendorff_alpha,
    mean_opinion,
    mean_variance,
    rate,
    summarise,
)
from service.study.assignment import assign

OBSERVERS = """
1 2 3 3 2 1 4 1 2 . . .
1 2 3 3 2 2 4 1 2 5 . 3
. 3 3 3 2 3 4 2 2 5 1 .
1 2 3 3 2 4 4 1 2 5 1 .
"""
"""Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), section C: four observers, twelve units."""

RATERS, CLIPS, REPEATS = 24, 30, 8
RATER_SD, CLIP_SD, NOISE_SD = 0.5, 0.6, 0.7
STUDIES = 300


def design() -> tuple[np.ndarray, np.ndarray]:
    """Who rates what, as studies assign it: a rater's and a clip's number for each rating."""
    plan = assign([[f"clip-{n}" for n in range(CLIPS)]], [], [f"rater-{n}" for n in range(RATERS)], REPEATS)
    pairs = [(int(rater[6:]), int(clip[5:])) for rater, clips in plan.items() for clip in clips]
    raters, clips = np.array(pairs).T
    return raters, clips


def latent(draws: np.random.Generator, mean: float, raters: np.ndarray, clips: np.ndarray) -> np.ndarray:
    """Opinions before they are rounded: every rater has a bias, every clip a quality."""
    bias, quality = RATER_SD * draws.standard_normal(RATERS), CLIP_SD * draws.standard_normal(CLIPS)
    noise: np.ndarray = NOISE_SD * draws.standard_normal(len(raters))
    return mean + bias[raters] + quality[clips] + noise


def true_score(mean: float) -> float:
    """Mean of the rounded opinions over all raters and clips there could be."""
    spread = math.hypot(RATER_SD, CLIP_SD, NOISE_SD)
    return float(1 + sum(norm.sf((edge - mean) / spread) for edge in (1.5, 2.5, 3.5, 4.5)))


@pytest.mark.parametrize("mean", [3.2, 4.4])
def test_intervals_of_mean_opinion_scores_cover_the_true_score(mean: float) -> None:
    draws = np.random.default_rng(1)
    raters, clips = design()
    found = [
        mean_opinion(np.clip(np.round(latent(draws, mean, raters, clips)), 1, 5), raters, clips) for _ in range(STUDIES)
    ]
    covered = np.mean([each.low <= true_score(mean) <= each.high for each in found])
    assert abs(np.mean([each.value for each in found]) - true_score(mean)) < 0.03
    assert 0.93 <= covered <= 0.985
    assert np.mean([each.high - each.low for each in found]) < 0.8


def test_intervals_that_ignore_raters_and_clips_are_too_short() -> None:
    """What the two-way variance is for."""
    draws = np.random.default_rng(2)
    raters, clips = design()
    covered = 0
    for _ in range(STUDIES):
        values = latent(draws, 3.0, raters, clips)
        covered += abs(values.mean() - 3) <= 1.96 * values.std(ddof=1) / math.sqrt(len(values))
    assert covered / STUDIES < 0.75


@pytest.mark.parametrize("truth", [0.5, 0.12])
def test_intervals_of_turing_rates_cover_the_true_rate(truth: float) -> None:
    draws = np.random.default_rng(3)
    raters, clips = design()
    spread = math.hypot(RATER_SD, CLIP_SD, NOISE_SD)
    mean = float(norm.ppf(truth)) * spread
    found = [rate(latent(draws, mean, raters, clips) > 0, raters, clips) for _ in range(STUDIES)]
    assert abs(np.mean([each.value for each in found]) - truth) < 0.02
    assert 0.93 <= np.mean([each.low <= truth <= each.high for each in found]) <= 0.99


def test_the_variance_is_that_of_the_mean_over_new_raters_and_clips() -> None:
    draws = np.random.default_rng(4)
    raters, clips = design()
    values = [latent(draws, 3.0, raters, clips) for _ in range(STUDIES)]
    estimated = np.mean([mean_variance(each, raters, clips) for each in values])
    exact = RATER_SD**2 / RATERS + CLIP_SD**2 / CLIPS + NOISE_SD**2 / len(raters)
    assert estimated == pytest.approx(exact, rel=0.1)


def test_a_rate_at_which_all_agree_keeps_an_interval() -> None:
    raters, clips = design()
    none = rate(np.zeros(len(raters), bool), raters, clips)
    assert (none.value, none.low) == (0.0, 0.0)
    assert 0.1 < none.high < 0.2  # as of 24 ratings: 4.3 / (24 + 4.3)
    everyone = rate(np.ones(len(raters), bool), raters, clips)
    assert (everyone.value, everyone.high) == (1.0, 1.0)
    assert everyone.low == pytest.approx(1 - none.high)


def test_one_rater_or_one_clip_allows_no_conclusion() -> None:
    one, many = np.zeros(5), np.arange(5)
    assert mean_opinion(np.array([2.0, 3, 2, 3, 2]), one, many) == Interval(2.4, 1, 5)
    assert rate(np.array([True, False, True, True, True]), many, one) == Interval(0.8, 0, 1)


def units(table: str) -> list[list[int]]:
    rows = [line.split() for line in table.strip().splitlines()]
    return [[int(row[unit]) for row in rows if row[unit] != "."] for unit in range(len(rows[0]))]


def test_alpha_is_that_of_the_published_example() -> None:
    assert krippendorff_alpha(units(OBSERVERS)) == pytest.approx(0.815, abs=5e-4)
    assert krippendorff_alpha(units(OBSERVERS), ordered=False) == pytest.approx(0.743, abs=5e-4)


def test_alpha_at_its_limits() -> None:
    assert krippendorff_alpha([[1, 1], [5, 5], [3, 3, 3]]) == 1
    assert krippendorff_alpha([[1, 5], [5, 1], [1, 5]]) < 0
    assert math.isnan(krippendorff_alpha([[2, 2], [2, 2]]))
    assert math.isnan(krippendorff_alpha([[1], [2]]))
    draws = np.random.default_rng(5)
    by_chance = [list(draws.integers(1, 6, 4)) for _ in range(2000)]
    assert abs(krippendorff_alpha(by_chance)) < 0.03


def test_a_study_is_summarised_by_label() -> None:
    """Raters whose opinions are exact: real clips are good, made ones poor and recognised every second time."""
    ratings = [
        Rating(f"r{rater}", f"{label}-{clip}", label, quality, quality - 1, quality, label == "real" or rater % 2 == 0)
        for label, quality in (("real", 5), ("ours", 3))
        for rater in range(8)
        for clip in range(6)
    ]
    found = summarise(ratings, ["ours", "real", "unrated"], ["real"])
    ours, real = found.labels
    assert (ours.label, ours.raters, ours.clips, ours.ratings) == ("ours", 8, 6, 48)
    assert [ours.scores[scale].value for scale in ("video", "sound", "match")] == [3, 2, 3]
    assert (ours.judged_real.value, ours.right.value) == (0.5, 0.5)
    assert (real.judged_real.value, real.right.value) == (1, 1)
    assert found.agreement["video"] == 1
    assert found.agreement["real"] == pytest.approx(krippendorff_alpha([[1, 0] * 4] * 6 + [[1] * 8] * 6, ordered=False))


def test_correlated_judgements_widen_the_interval_of_a_rate() -> None:
    """Two raters who always say the same are one rater's worth."""
    draws = np.random.default_rng(6)
    clips = np.tile(np.arange(40), 2)
    judged = np.tile(draws.random(40) < 0.5, 2)
    alike, alone = rate(judged, np.repeat([0, 1], 40), clips), rate(judged, np.arange(80), np.arange(80))
    assert alike.high - alike.low > alone.high - alone.low
