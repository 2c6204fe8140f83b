"""The results of an opinion study as CSV and as a figure."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from model.evaluation.intervals import Interval
from model.evaluation.opinion import SCALES, LabelOpinion, Opinion

TITLES = {"video": "picture", "sound": "sound", "match": "match"}

_COLUMNS = ("label", "measure", "value", "low", "high", "raters", "clips", "ratings")


def write_csv(opinion: Opinion, path: Path) -> None:
    """One row for each label and measure; agreement is in rows with an empty label, without an interval."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(_COLUMNS)
        for label in opinion.labels:
            for measure, estimate in _measures(label):
                numbers = (f"{number:.4f}" for number in (estimate.value, estimate.low, estimate.high))
                rows.writerow([label.label, measure, *numbers, label.raters, label.clips, label.ratings])
        for question, alpha in opinion.agreement.items():
            rows.writerow(["", f"alpha_{question}", f"{alpha:.4f}", "", "", "", "", ""])


def plot(opinion: Opinion, path: Path) -> None:
    """Mean opinion scores and the rates at which clips were taken for real, with intervals of 95 %.

    Raises ImportError if matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    names = [label.label for label in opinion.labels]
    figure = Figure(figsize=(11, 1.5 + 0.5 * len(names)), layout="constrained")
    axes = figure.subplots(1, len(SCALES) + 1, sharey=True, squeeze=False)[0]
    for axis, scale in zip(axes, SCALES, strict=False):
        _bars(axis, [label.scores[scale] for label in opinion.labels])
        axis.set_title(TITLES[scale])
        axis.set_xlim(1, 5)
        axis.set_xlabel("mean opinion score")
    _bars(axes[-1], [label.judged_real for label in opinion.labels])
    axes[-1].set_title("taken for real")
    axes[-1].set_xlim(0, 1)
    axes[-1].axvline(0.5, color="#444", linestyle=":", linewidth=1)
    axes[-1].set_xlabel("fraction of ratings")
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.4, -0.6)
    figure.savefig(path, dpi=120)


def _bars(axis: Any, estimates: list[Interval]) -> None:
    for row, each in enumerate(estimates):
        reach = [[each.value - each.low], [each.high - each.value]]
        axis.errorbar(each.value, row, xerr=reach, fmt="o", color="#0b6b66", capsize=4)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="x", color="#ddd")


def _measures(label: LabelOpinion) -> Iterator[tuple[str, Interval]]:
    for scale in SCALES:
        yield f"mos_{scale}", label.scores[scale]
    yield "judged_real", label.judged_real
    yield "right", label.right
