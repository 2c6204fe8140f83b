"""Coupling between audio and video kept by each guidance method, on a pair of scalars with a known exact answer. Prints
JSON and draws a figure.

    python -m benchmarks.guidance_coupling [--figure docs/figures/guidance.png]

The pair and the methods are those of tests/model/sampling/test_guidance.py. Nothing is timed: the numbers are the same
on every machine.
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.report import figure_path
from tests.model.sampling.test_guidance import METHODS, RESIDUAL, SLOPE, fit

STEPS = (5, 10, 20, 50)


def draw(slopes: dict[str, dict[int, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 4.4))
    axis.axhline(SLOPE, color="black", linewidth=1, linestyle=":")
    axis.annotate("exact", (STEPS[0], SLOPE), xytext=(0, 5), textcoords="offset points", fontsize=9)
    for number, (name, curve) in enumerate(slopes.items()):
        style = ("o-", "s-", "^-", "v-", "D-", "x--")[number % 6]
        axis.semilogx(list(curve), list(curve.values()), style, markersize=6, label=name)
    axis.set_xticks(STEPS, [str(steps) for steps in STEPS], minor=False)
    axis.minorticks_off()
    axis.set(xlabel="steps", ylabel="slope of the output on the condition", ylim=(0, 1.05))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=9, loc="lower right", ncols=2)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    figure = figure_path(__doc__)
    fits = {name: {steps: fit(method, steps=steps) for steps in STEPS} for name, method in METHODS.items()}
    if figure:
        draw({name: {steps: slope for steps, (slope, _) in curve.items()} for name, curve in fits.items()}, figure)
    rounded = {
        name: {steps: {"slope": round(slope, 3), "residual": round(left, 3)} for steps, (slope, left) in curve.items()}
        for name, curve in fits.items()
    }
    exact = {"slope": round(SLOPE, 3), "residual": round(RESIDUAL, 3)}
    print(json.dumps({"sampler": "dpmpp_2m", "spacing": "log_snr", "exact": exact, "methods": rounded}, indent=1))


if __name__ == "__main__":
    main()
