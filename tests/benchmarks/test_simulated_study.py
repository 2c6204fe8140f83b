"""The simulated study of docs/study.md."""

from __future__ import annotations

import numpy as np

from benchmarks.simulated_study import CLIPS, MEANS, REPEATS, rows, simulate, true_score
from model.evaluation.opinion import summarise


def test_intervals_of_simulated_studies_hold_the_known_opinions() -> None:
    held = []
    for seed in range(20):
        ratings = simulate(seed)
        assert len(ratings) == len(MEANS) * CLIPS * REPEATS
        found = rows(summarise(ratings, MEANS, ["real"]))
        held += [each.low <= true <= each.high for _, _, true, each in found]
    assert 0.9 < np.mean(held) <= 1


def test_true_scores_account_for_rounding_and_the_ends_of_the_scale() -> None:
    assert abs(true_score(3.0) - 3.0) < 1e-9
    assert 4.2 < true_score(4.5) < 4.5
