"""Bias and spread of Fréchet and kernel distance by number of clips, with the true distance known; JSON and a figure.

    python -m benchmarks.distance_bias [--figure docs/figures/distance_bias.png]

Features are drawn from Gaussians in 400 dimensions, as many as I3D has logits, whose variances fall as 1/k. Both sets
have the same distribution, or their means differ. Nothing is timed: the numbers are the same on every machine.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.report import figure_path
from model.evaluation.distances import Distance, frechet_distance, kernel_distance

FEATURES = 400
CLIPS = (256, 512, 1024, 2048)
REPEATS = 10
SHIFT = 0.25
"""Shift of every mean, in standard deviations of its feature."""

DEVIATIONS = torch.arange(1, FEATURES + 1, dtype=torch.float64).rsqrt() * 4
"""Standard deviations of the features; their variances add up to about 105."""

DISTANCES: dict[str, Distance] = {"frechet": frechet_distance, "kernel": kernel_distance}


def truth(shift: float) -> dict[str, float]:
    """The distances of the distributions, in closed form."""
    mean = (shift * DEVIATIONS).square()
    variance = DEVIATIONS.square()
    d = FEATURES
    within = mean.sum()  # E u, E u² and E u³ of u = x·y for both from the shifted distribution
    square = variance.square().sum() + 2 * (mean * variance).sum() + within**2
    cube = within**3 + 6 * within * (mean * variance).sum() + 3 * within * variance.square().sum()
    cube = cube + 6 * (mean * variance.square()).sum()
    shifted = 1 + 3 * within / d + 3 * square / d**2 + cube / d**3
    centred = 1 + 3 * variance.square().sum() / d**2
    across = 1 + 3 * (variance.square().sum() + (mean * variance).sum()) / d**2
    return {"frechet": float(mean.sum()), "kernel": float(shifted + centred - 2 * across)}


def drawn(clips: int, seed: int) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(clips, FEATURES, dtype=torch.float64, generator=draws) * DEVIATIONS


def measured(distance: Distance, clips: int, shift: float) -> dict[str, float]:
    """Mean and standard deviation over repeats."""
    found = torch.tensor(
        [
            distance(drawn(clips, 2 * repeat), drawn(clips, 2 * repeat + 1) + shift * DEVIATIONS)
            for repeat in range(REPEATS)
        ]
    )
    return {"mean": float(found.mean()), "deviation": float(found.std())}


def curves() -> dict[str, dict[str, dict[int, dict[str, float]]]]:
    answers = {}
    for case, shift in (("same distribution", 0.0), ("means apart", SHIFT)):
        answers[case] = {name: {n: measured(distance, n, shift) for n in CLIPS} for name, distance in DISTANCES.items()}
    return answers


def draw(answers: dict[str, dict[str, dict[int, dict[str, float]]]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axis, (name, label) in zip(
        figure.subplots(1, 2), (("frechet", "Fréchet distance"), ("kernel", "kernel distance")), strict=True
    ):
        for (case, found), shift, colour in zip(answers.items(), (0.0, SHIFT), ("#2a6f97", "#c8553d"), strict=True):
            means, deviations = ([found[name][n][key] for n in CLIPS] for key in ("mean", "deviation"))
            axis.errorbar(CLIPS, means, yerr=deviations, marker="o", markersize=4, capsize=3, color=colour, label=case)
            axis.axhline(truth(shift)[name], color=colour, linestyle=":", linewidth=1)
        axis.set(title=label, xlabel="clips on each side", xscale="log")
        axis.set_xticks(CLIPS, [str(n) for n in CLIPS])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=9)
    figure.savefig(path, dpi=110)


def main() -> None:
    figure = figure_path(__doc__)
    answers = curves()
    if figure:
        draw(answers, figure)
    print(
        json.dumps({"truth": {"same distribution": truth(0), "means apart": truth(SHIFT)}, "seen": answers}, indent=2)
    )


if __name__ == "__main__":
    main()
