"""The table and the training curve of docs/demo-model.md, from the files beside the demo model's weights.

    python -m benchmarks.demo_model [--out docs/figures]

Draws demo-training.png and prints JSON: the scores of `evaluation.json` as a Markdown table, and a summary of the
training. The scores come from `duet evaluate demo --json model/weights/demo/evaluation.json`.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from model.checkpoint.manifest import BUILTIN
from model.evaluation.report import LABELS

FOLDER = BUILTIN / "demo"
COLOURS = {"video": "#2a6f97", "audio": "#c8553d"}


def columns(path: Path) -> dict[str, list[float]]:
    """Columns of a CSV file by name."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def table(evaluation: dict[str, Any]) -> str:
    """Normalised scores: one row per run, one column per measure."""
    measures = [name for name in LABELS if name in evaluation["runs"][0]["scores"]]
    lines = [
        f"| {evaluation['clips']} clips per run | {' | '.join(LABELS[name] for name in measures)} |",
        f"|---|{'---|' * len(measures)}",
    ]
    for run in evaluation["runs"]:
        cells = [run["scores"][name]["normalised"] for name in measures]
        lines.append(f"| {run['name']} | {' | '.join(_interval(cell) for cell in cells)} |")
    return "\n".join(lines)


def _interval(score: dict[str, float]) -> str:
    return f"{score['value']:.2f} ({score['low']:.2f} … {score['high']:.2f})".replace("-", "−")


def draw(path: Path) -> None:
    """Losses and the coupling gap of the base network."""
    losses, gaps = columns(FOLDER / "losses-base.csv"), columns(FOLDER / "coupling-base.csv")
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, colour in COLOURS.items():
        left.plot(losses["step"], losses[name], color=colour, linewidth=0.5, alpha=0.5)
        left.plot(gaps["step"], gaps[f"loss_{name}"], color=colour, marker="o", markersize=3, label=name)
        right.plot(gaps["step"], gaps[name], color=colour, linestyle="--", label=f"{name}, both noisy")
    right.plot(gaps["step"], gaps["clean_audio"], color=COLOURS["video"], label="video, given clean sound")
    right.plot(gaps["step"], gaps["clean_video"], color=COLOURS["audio"], label="sound, given clean video")
    left.set(title="loss: steps, and averaged weights on held-out clips", xlabel="step")
    left.set_ylim(0, 3 * max(gaps["loss_video"][-1], gaps["loss_audio"][-1]))
    right.set(title="coupling gap", xlabel="step")
    for axis in (left, right):
        axis.legend(frameon=False, fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/figures"))
    options = parser.parse_args()
    draw(options.out / "demo-training.png")
    trained = {}
    for part in ("base", "sr"):
        record = json.loads((FOLDER / f"training-{part}.json").read_text(encoding="utf-8"))
        trained[part] = {
            "steps": record["step"],
            "samples": record["step"] * record["batch"],
            "minutes": round(record["seconds"] / 60, 1),
            "samples_per_second": round(record["step"] * record["batch"] / record["seconds"], 1),
        }
    evaluation = json.loads((FOLDER / "evaluation.json").read_text(encoding="utf-8"))
    gaps = {name: values[-1] for name, values in columns(FOLDER / "coupling-base.csv").items()}
    print(json.dumps({"trained": trained, "coupling": gaps, "table": table(evaluation)}, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
