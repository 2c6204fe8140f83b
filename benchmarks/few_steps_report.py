"""The tables and the figure of docs/few-steps.md, from the JSON of `benchmarks.few_steps` and the model's manifest.

    python -m benchmarks.few_steps_report

Writes the tables into the page and draws docs/figures/few_steps.png. The table of solvers is written only if the report
is of the model that ships, whose manifest has them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.page_parts import PageParts
from model.checkpoint.manifest import Manifest, find_models
from model.sampling.tuned_solver import TunedSolver

PAGE = Path(__file__).parents[1] / "docs" / "few-steps.md"
PARTS = PageParts(PAGE, "python -m benchmarks.few_steps_report")
REPORT = PAGE.parent / "figures" / "few_steps.json"

ALIGNMENT = {
    "onset_f1": "onset F1",
    "pitch_x": "pitch-x correlation",
    "lag": "in step within a frame",
    "av_align": "AV-Align",
}
"""Measures by which few steps are compared with the default."""
SHOWN = {"onset_f1": "onset F1", "pitch_x": "pitch-x correlation", "distance": "distance from 64 steps"}
"""Columns of the figure."""

JOBS = ("joint", "v2a clean", "a2v clean", "v2a pigdm", "a2v pigdm")
ORDER = ("tuned", "dpmpp_2m", "unipc", "dpmpp_3m", "ddim")
TICKS = (4, 6, 8, 10, 20)
BEST, FEW = "dpmpp_2m 20", "tuned 6"
"""Sampler and steps of the qualities `best` and, where there are solvers, `fast`."""

Row = dict[str, dict[str, float]]


def tables(report: dict[str, Any], manifest: Manifest) -> dict[str, str]:
    """The generated parts of the page, by name; that of the solvers only if the report is of the manifest's weights."""
    joint = ["", *ALIGNMENT.values(), "distance: picture, sound", "gradients", "log-mel"]
    given = ["", *ALIGNMENT.values(), "distance"]
    conditioned = [row for job in JOBS[1:] for row in _rows(report, job)]
    return {
        "generate": _table(
            joint, [[_name(report, row), *_cells(report, row), *_whole(report, row)] for row in _rows(report, "joint")]
        ),
        "v2a and a2v": _table(
            given,
            [[_name(report, row, True), *_cells(report, row), _value(report, row, "distance")] for row in conditioned],
        ),
        "aims": aims(report),
        **({"solvers": solver_distances(manifest)} if measured(report, manifest) else {}),
    }


def measured(report: dict[str, Any], manifest: Manifest) -> bool:
    """Whether the report is of the base network of `manifest`."""
    return bool(report["weights"] == manifest.network_hash("base"))


def aims(report: dict[str, Any]) -> str:
    """For each job with both rows: whether FEW is within the interval of BEST, in each measure of alignment."""
    rows = []
    for job in JOBS:
        few, best = (report["rows"].get(f"{job} {name}") for name in (FEW, BEST))
        if few is not None and best is not None:
            cells = []
            for measure in ALIGNMENT:
                value, low, high = few[measure]["value"], best[measure]["low"], best[measure]["high"]
                cells.append(f"{value:.3f} in {low:.3f} … {high:.3f}: {'yes' if value >= low else '**no**'}")
            rows.append(["`generate`" if job == "joint" else job, *cells])
    return _table(["6 `tuned`, interval of 20 `dpmpp_2m`", *ALIGNMENT.values()], rows)


def solver_distances(manifest: Manifest) -> str:
    """Distances from the teacher on the noise that was held out, as the manifest has them."""
    if manifest.tuned is None:
        return ""
    rows = [
        [f"{'`generate`' if name == 'generate' else name}, {steps}: {_features(solver)}", *_distances(solver, steps)]
        for name, found in {**manifest.tuned.base, "super-resolution": manifest.tuned.sr}.items()
        for steps, solver in found.items()
    ]
    return _table(["", "tuned", "`dpmpp_2m`, as many", "`dpmpp_2m`, 20"], rows)


FEATURES = {"video": "picture", "audio": "sound", "spectrum": "spectrum", "onsets": "onsets"}


def _features(solver: TunedSolver) -> str:
    return ", ".join(FEATURES[name] for name in solver.distance["tuned"])


def _distances(solver: TunedSolver, steps: int) -> list[str]:
    found = (solver.distance[name] for name in ("tuned", f"dpmpp_2m {steps}", "dpmpp_2m 20"))
    return [", ".join(f"{value:.3f}" for value in each.values()) for each in found]


def _rows(report: dict[str, Any], job: str) -> list[str]:
    """Rows of a job, most steps first."""

    def order(row: str) -> tuple[int, int, str]:
        _, sampler, steps = row.rsplit(maxsplit=2)
        return -int(steps), ORDER.index(sampler) if sampler in ORDER else len(ORDER), row

    return sorted((row for row in report["rows"] if row.startswith(f"{job} ")), key=order)


def _name(report: dict[str, Any], row: str, with_job: bool = False) -> str:
    job, sampler, steps = row.rsplit(maxsplit=2)
    balanced = "tuned 10" if f"{job} tuned 10" in report["rows"] else "dpmpp_2m 10"
    quality = {BEST: " (`best`)", FEW: " (`fast`)", balanced: " (`balanced`)"}.get(f"{sampler} {steps}", "")
    own = f"`{sampler}`" if sampler in ORDER else sampler
    return f"{job + ', ' if with_job else ''}{own}, {steps}{quality}"


def _cells(report: dict[str, Any], row: str) -> list[str]:
    found: Row = report["rows"][row]
    return [f"{found[name]['value']:.2f} ({found[name]['low']:.2f} … {found[name]['high']:.2f})" for name in ALIGNMENT]


def _whole(report: dict[str, Any], row: str) -> list[str]:
    found: Row = report["rows"][row]
    distance = ", ".join(f"{found[f'distance_{name}']['value']:.2f}" for name in ("video", "audio"))
    return [distance, *(f"{found[name]['value']:.0f}" for name in ("gradients", "log_mel"))]


def _value(report: dict[str, Any], row: str, measure: str) -> str:
    found: Row = report["rows"][row]
    return f"{found[measure]['value']:.2f}" if measure in found else "–"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], f"|{'---|' * len(head)}", *lines[1:]])


def draw(report: dict[str, Any], path: Path) -> None:
    """One row of axes for each job with FEW, one column a measure, against evaluations."""
    from matplotlib.figure import Figure

    jobs = [job for job in JOBS if f"{job} {FEW}" in report["rows"]]
    figure = Figure(figsize=(12, 3 * len(jobs)), layout="constrained")
    axes = figure.subplots(len(jobs), len(SHOWN), squeeze=False)
    for line, job in zip(axes, jobs, strict=True):
        curves: dict[str, dict[int, Row]] = {}
        for row in _rows(report, job):
            _, sampler, steps = row.rsplit(maxsplit=2)
            curves.setdefault(sampler, {})[int(steps)] = report["rows"][row]
        for axis, (measure, label) in zip(line, SHOWN.items(), strict=True):
            for sampler, curve in sorted(curves.items()):
                counts = sorted(count for count in curve if measure in curve[count])
                values = [curve[count][measure] for count in counts]
                middle = [value["value"] for value in values]
                reach = [
                    [max(0.0, value["value"] - value["low"]) for value in values],
                    [max(0.0, value["high"] - value["value"]) for value in values],
                ]
                axis.errorbar(
                    counts,
                    middle,
                    reach,
                    marker="o",
                    markersize=4,
                    capsize=2,
                    linewidth=2.4 if sampler == "tuned" else 1,
                    color=f"C{ORDER.index(sampler) if sampler in ORDER else len(ORDER)}",
                    label=sampler,
                )
            axis.set(title=f"{job}: {label}", xlabel="evaluations of the network", xlim=(3, 21), xticks=TICKS)
            axis.grid(alpha=0.3)
        line[0].legend(fontsize=8)
    figure.savefig(path, dpi=75)


def main() -> None:
    report = json.loads(REPORT.read_text(encoding="utf-8"))
    draw(report, PAGE.parent / "figures" / "few_steps.png")
    PARTS.write(tables(report, find_models()[report["model"]]))


if __name__ == "__main__":
    main()
