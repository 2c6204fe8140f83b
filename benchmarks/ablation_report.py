"""Tables and figure of `benchmarks.ablations`, from the results in its folder or the JSON that it wrote.

python -m benchmarks.ablation_report docs/figures/ablations.json [--figure docs/figures/ablations.png]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.report import processor
from model.evaluation.fidelity import DISTANCES

FIRST = "windows-1-4-8"
"""The configuration that the others are compared with."""

ROWS = {
    "windows-1-1-1": "[1, 1, 1]",
    "windows-4-4-4": "[4, 4, 4]",
    "windows-8-8-8": "[8, 8, 8]",
    FIRST: "[1, 4, 8], random shift",
    "another-seed": "the same, another seed",
    "no-shift": "[1, 4, 8], no shift",
    "audio-only": "sound alone",
    "video-only": "pictures alone",
}
TABLES = {
    "windows (the paper's table 3)": ("windows-1-1-1", "windows-4-4-4", "windows-8-8-8", FIRST, "another-seed"),
    "random shift (table 4)": ("no-shift", FIRST),
    "one modality alone (table 1)": ("audio-only", "video-only", FIRST),
}
LOSSES = {"video": "pictures", "audio": "sound"}

NORMAL_95 = 1.96


def result_path(out: Path, name: str, steps: int) -> Path:
    """Where the measures of a configuration after `steps` training steps are kept."""
    return out / name / f"result-{steps}.json"


def summary(out: Path, steps: int) -> dict[str, Any]:
    """The figures of every configuration that is measured after `steps` steps, `of` those of the whole run.

    Losses are means over clips; a `change` is the mean difference from FIRST, clip by clip, in percent, and `half` half
    the width of its interval of 95 %.
    """
    paths = {name: result_path(out, name, steps) for name in ROWS}
    found = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.exists()}
    rows = {}
    for name, result in found.items():
        losses = {kind: torch.tensor(values) for kind, values in result["losses"].items()}
        first = found.get(FIRST, {}).get("losses", {})
        rows[name] = {
            "parameters": result["parameters"],
            "training_seconds": result["training_seconds"],
            "sampling": result["sampling"],
            "losses": {kind: float(losses[kind].mean()) for kind in LOSSES if kind in losses},
            "changes": {
                kind: _percent(losses[kind], torch.tensor(first[kind]))
                for kind in LOSSES
                if kind in losses and kind in first and name != FIRST
            },
            "gaps": {kind: _mean(losses[f"gap_{kind}"]) for kind in LOSSES if f"gap_{kind}" in losses},
            "distances": result["distances"],
            "scores": result.get("scores", {}),
        }
    trained = next(iter(found.values()))["configuration"] if found else {"steps": steps, "batch": None}
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": processor(),
        "steps": steps,
        "of": trained["steps"],
        "batch": trained["batch"],
        "configurations": rows,
    }


def _mean(values: Tensor) -> dict[str, float]:
    return {"mean": float(values.mean()), "half": NORMAL_95 * float(values.std()) / len(values) ** 0.5}


def _percent(own: Tensor, base: Tensor) -> dict[str, float]:
    return _mean(100 * (own - base) / base.mean())


def tables(report: dict[str, Any]) -> str:
    """Everything that is there, as Markdown."""
    rows = report["configurations"]
    if not rows:
        return "nothing is measured yet"
    sampling = next(iter(rows.values()))["sampling"]
    parts = [
        f"{report['steps']} of {report['of']} steps of {report['batch']} clips, {sampling['clips']} generated clips "
        f"({sampling['sampler']}, {sampling['steps']} steps)"
    ]
    for title, names in TABLES.items():
        there = {name: rows[name] for name in names if name in rows}
        if there.keys() - {FIRST}:
            parts += [title, _configurations(there)]
    real = next(iter(row for name, row in rows.items() if len(row["losses"]) == 2), None)
    if real is not None:
        floors = [f"{each.label} {real['distances'][each.name]['floor']['value']:.0f}" for each in DISTANCES]
        parts.append(f"distances of as many other real clips: {', '.join(floors)}")
    return "\n\n".join(parts) + "\n"


def _configurations(rows: dict[str, dict[str, Any]]) -> str:
    lines = []
    for name, row in rows.items():
        cells = [ROWS[name], f"{row['parameters'] / 1e6:.2f} M"]
        for kind in LOSSES:
            mean = "" if kind not in row["losses"] else f"{row['losses'][kind]:.4f}"
            change = row["changes"].get(kind)
            cells.append(mean if change is None else f"{mean} ({_plus_minus(change)} %)")
        for kind in LOSSES:
            gap = row["gaps"].get(kind)
            cells.append("" if gap is None else _plus_minus({part: 1000 * value for part, value in gap.items()}))
        lines.append(cells + _measures(row))
    gaps = [f"coupling gap, {label}, × 1000" for label in LOSSES.values()]
    headings = ["", "parameters", *(f"loss, {label}" for label in LOSSES.values()), *gaps, "onset F1 (shuffled)"]
    return _table([*headings, *(distance.label for distance in DISTANCES)], lines)


def _measures(row: dict[str, Any]) -> list[str]:
    score = row["scores"].get("onset_f1")
    cells = ["" if score is None else f"{score['value']['value']:.2f} ({score['floor']['value']:.2f})"]
    for distance in DISTANCES:
        each = row["distances"].get(distance.name)
        value = each and each["value"]
        cells.append(f"{value['value']:.0f} ± {value['high'] - value['value']:.0f}" if value else "")
    return cells


def _plus_minus(value: dict[str, float]) -> str:
    return f"{value['mean']:+.1f} ± {value['half']:.1f}".replace("-", "−")


def _table(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [headings, ["---"] * len(headings), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def draw(report: dict[str, Any], path: Path) -> None:
    """Held-out losses against the first configuration, and distances, as bars."""
    from matplotlib.figure import Figure

    rows = report["configurations"]
    columns = len(LOSSES) + len(DISTANCES)
    figure = Figure(figsize=(2.3 * columns, 1.2 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots(1, columns, sharey=True, squeeze=False)[0]
    for axis, (kind, label) in zip(axes, LOSSES.items(), strict=False):
        for line, row in enumerate(rows.values()):
            if change := row["changes"].get(kind):
                reach = change["half"]
                axis.errorbar(change["mean"], line, xerr=reach, fmt="o", color="#2a6f97", capsize=3, markersize=4)
        axis.axvline(0, color="#444", linewidth=1)
        axis.set_title(f"loss, {label}: change, %", fontsize=9)
    for axis, distance in zip(axes[len(LOSSES) :], DISTANCES, strict=True):
        for line, row in enumerate(rows.values()):
            if each := row["distances"].get(distance.name):
                value = each["value"]
                reach = [[value["value"] - value["low"]], [value["high"] - value["value"]]]
                axis.barh(line, value["value"], color="#e6a57e")
                axis.errorbar(value["value"], line, xerr=reach, color="#222", capsize=2, linewidth=1)
        axis.set_title(distance.label, fontsize=9)
    for axis in axes:
        axis.set_yticks(range(len(rows)), [ROWS[name] for name in rows], fontsize=9)
        axis.set_ylim(len(rows) - 0.4, -0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(axis="x", labelsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="JSON of benchmarks.ablations --json")
    parser.add_argument("--figure", type=Path, help="also draw the results into this file")
    options = parser.parse_args()
    report = json.loads(options.report.read_text(encoding="utf-8"))
    print(tables(report))
    if options.figure:
        draw(report, options.figure)


if __name__ == "__main__":
    main()
