"""A study by simulated raters whose true opinions are known: estimates beside the truth, as Markdown and a figure.

    python -m benchmarks.simulated_study [--figure docs/figures/study-opinions.png]

Clips are assigned as `duet study create` does. Every rater has a bias, every clip a quality, every answer its noise;
scores are rounded to 1 … 5, and a clip is taken for real above a threshold. Nothing is timed: the numbers are the same
on every machine.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
from scipy.stats import norm

from model.evaluation.intervals import Interval
from model.evaluation.opinion import HIGHEST, LOWEST, SCALES, Opinion, Rating, summarise
from model.evaluation.opinion_report import plot
from service.study.assignment import assign

RATERS, CLIPS, REPEATS = 24, 10, 8
"""Raters; clips of each label; ratings of each clip."""

RATER_SD, CLIP_SD, NOISE_SD = 0.5, 0.6, 0.7
SPREAD = math.hypot(RATER_SD, CLIP_SD, NOISE_SD)

MEANS = {
    "real": {"video": 4.3, "sound": 4.0, "match": 4.4},
    "ours": {"video": 3.4, "sound": 3.1, "match": 3.7},
    "baseline": {"video": 2.4, "sound": 2.6, "match": 2.1},
}
"""Mean opinions before they are rounded."""

REAL_ABOVE = {"real": -1.8, "ours": 0.1, "baseline": 1.3}
"""Threshold above which a clip is taken for real, on a scale where opinions have the mean 0."""


def simulate(seed: int = 0) -> list[Rating]:
    """The ratings of one study."""
    draws = np.random.default_rng(seed)
    clips = {label: [f"{label}-{number}" for number in range(CLIPS)] for label in MEANS}
    raters = [f"rater-{number}" for number in range(RATERS)]
    label_of = {clip: label for label, names in clips.items() for clip in names}
    questions = (*SCALES, "real")
    bias = {(rater, each): RATER_SD * draws.standard_normal() for rater in raters for each in questions}
    quality = {(clip, each): CLIP_SD * draws.standard_normal() for clip in label_of for each in questions}
    ratings = []
    for rater, assigned in assign(list(clips.values()), [], raters, REPEATS).items():
        for clip in assigned:
            label = label_of[clip]
            deviation = {
                each: bias[rater, each] + quality[clip, each] + NOISE_SD * draws.standard_normal() for each in questions
            }
            scores = {each: round(MEANS[label][each] + deviation[each]) for each in SCALES}
            limited = {each: min(HIGHEST, max(LOWEST, score)) for each, score in scores.items()}
            ratings.append(Rating(rater, clip, label, **limited, real=deviation["real"] > REAL_ABOVE[label]))
    return ratings


def true_score(mean: float) -> float:
    """Mean of the rounded opinions over all raters and clips there could be."""
    edges = (LOWEST + 0.5 + step for step in range(HIGHEST - LOWEST))
    return float(LOWEST + sum(norm.sf((edge - mean) / SPREAD) for edge in edges))


def rows(opinion: Opinion) -> list[tuple[str, str, float, Interval]]:
    """Label, measure, true value and estimate."""
    found = []
    for each in opinion.labels:
        found += [(each.label, scale, true_score(MEANS[each.label][scale]), each.scores[scale]) for scale in SCALES]
        rate = float(norm.sf(REAL_ABOVE[each.label] / SPREAD))
        found.append((each.label, "taken for real", rate, each.judged_real))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", type=Path, help="also draw the results into this file")
    options = parser.parse_args()
    opinion = summarise(simulate(), MEANS, ["real"])
    print("| label | measure | true | estimate |\n| --- | --- | --- | --- |")
    for label, measure, true, found in rows(opinion):
        print(f"| {label} | {measure} | {true:.2f} | {found.value:.2f} ({found.low:.2f} … {found.high:.2f}) |")
    if options.figure:
        plot(opinion, options.figure)


if __name__ == "__main__":
    main()
