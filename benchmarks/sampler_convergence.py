"""Error by number of evaluations for every sampler, on a target with a known exact solution; JSON and a figure.

    python -m benchmarks.sampler_convergence [--figure docs/figures/sampler_convergence.png]

The target is a two-mode mixture in one dimension. Its probability-flow solution preserves quantiles, so the error
is relative to the exact solution, not to a longer run. Nothing is timed: the numbers are the same on every machine.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.report import figure_path
from model.sampling import samplers
from model.sampling.samplers import Sampler
from model.sampling.schedule import NoiseSchedule, linear_betas
from tests.model.sampling.analytic import Mixture, run

SCHEDULE = NoiseSchedule(linear_betas(1000))
TARGET = Mixture(SCHEDULE, (-0.6, 0.6), 0.2)
EVALUATIONS = (6, 8, 10, 12, 16, 20, 25, 32, 50, 64, 100, 128, 200)
SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "ddim": samplers.ddim,
    "dpm_solver, order 2": partial(samplers.dpm_solver, order=2),
    "dpm_solver, order 3": partial(samplers.dpm_solver, order=3),
    "dpmpp_2m": samplers.dpmpp_2m,
    "dpmpp_3m": samplers.dpmpp_3m,
    "dpmpp_3m, as published": partial(samplers.dpmpp_3m, published=True),
    "unipc": samplers.unipc,
}


def error(sampler: Callable[..., Sampler], spacing: str, evaluations: int) -> float:
    """Root mean square distance from the exact solution over 101 starting points."""
    times = SCHEDULE.grid(evaluations, spacing)
    x = torch.linspace(-2.5, 2.5, 101, dtype=torch.float64)
    result, asked = run(sampler(x, SCHEDULE, times), TARGET.eps)
    assert len(asked) == evaluations
    return float((result - TARGET.flow(x, times[0], times[-1])).square().mean().sqrt())


def draw(errors: dict[str, dict[str, dict[int, float]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(errors), figsize=(13, 4.4), sharey=True)
    for axis, (spacing, curves) in zip(axes, errors.items(), strict=True):
        for name, curve in curves.items():
            style = "--" if "published" in name else "-"
            axis.loglog(list(curve), list(curve.values()), style, marker="o", markersize=3, label=name)
        axis.set(title=f"spacing: {spacing}", xlabel="evaluations of the network")
        axis.set_xticks([6, 10, 20, 50, 100, 200], ["6", "10", "20", "50", "100", "200"], minor=False)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("error (root mean square)")
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    figure = figure_path(__doc__)
    errors = {
        spacing: {name: {n: error(sampler, spacing, n) for n in EVALUATIONS} for name, sampler in SAMPLERS.items()}
        for spacing in ("log_snr", "uniform", "quadratic")
    }
    if figure:
        draw(errors, figure)
    orders = {name: round(math.log(curve[25] / curve[100], 4), 2) for name, curve in errors["log_snr"].items()}
    print(
        json.dumps(
            {"target": "two modes at ±0.6, std 0.2", "observed_order_log_snr": orders, "error": errors}, indent=1
        )
    )


if __name__ == "__main__":
    main()
