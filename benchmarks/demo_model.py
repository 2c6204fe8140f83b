"""The tables and the training curve of docs/demo-model.md, from the files beside the demo model's weights.

    python -m benchmarks.demo_model

Writes the tables into docs/demo-model.md and draws docs/figures/demo-training.png. The scores come from `duet evaluate
demo --json model/weights/demo/evaluation.json`; for a model trained on `scenes`, those on that data set come from
`evaluation-scenes.json` beside it.
"""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from safetensors import safe_open

from benchmarks.page_parts import PageParts
from model.checkpoint.manifest import BUILTIN, FILE_NAME, Manifest, read_manifest
from model.demo_training.planned_run import REPORTS
from model.evaluation.generation import possible_methods
from model.evaluation.report import LABELS, SCENE_LABELS

FOLDER = BUILTIN / "demo"
COUPLING = "coupling-base.csv"
BOUNCE, SCENES = REPORTS["bounce"], REPORTS["scenes"]
PAGE = Path(__file__).parents[1] / "docs" / "demo-model.md"
PARTS = PageParts(PAGE, "python -m benchmarks.demo_model")
COLOURS = {"video": "#2a6f97", "audio": "#c8553d"}


def columns(path: Path) -> dict[str, list[float]]:
    """Columns of a CSV file by name."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def table(evaluation: dict[str, Any]) -> str:
    """Normalised scores: one row per run, one column per measure."""
    labels = SCENE_LABELS if evaluation.get("data") == "scenes" else LABELS
    measures = [name for name in labels if name in evaluation["runs"][0]["scores"]]
    lines = [
        f"| {evaluation['clips']} clips per run | {' | '.join(labels[name] for name in measures)} |",
        f"|---|{'---|' * len(measures)}",
    ]
    for run in evaluation["runs"]:
        cells = [run["scores"][name]["normalised"] for name in measures]
        lines.append(f"| {run['name']} | {' | '.join(_interval(cell) for cell in cells)} |")
    return "\n".join(lines)


def _interval(score: dict[str, float]) -> str:
    return f"{score['value']:.2f} ({score['low']:.2f} … {score['high']:.2f})".replace("-", "−")


def draw(folder: Path, path: Path) -> None:
    """Losses of the base network in a model's folder and, if it was measured, the coupling gap."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    losses = columns(folder / "losses-base.csv")
    for name, colour in COLOURS.items():
        left.plot(losses["step"], losses[name], color=colour, linewidth=0.5, alpha=0.5, label=f"{name}, steps")
    left.set(title="loss: steps, and averaged weights on held-out clips", xlabel="step")
    right.set(title="coupling gap", xlabel="step")
    if (folder / COUPLING).exists():
        gaps = columns(folder / COUPLING)
        for name, colour in COLOURS.items():
            left.plot(gaps["step"], gaps[f"loss_{name}"], color=colour, marker="o", markersize=3, label=name)
            right.plot(gaps["step"], gaps[name], color=colour, linestyle="--", label=f"{name}, both noisy")
        right.plot(gaps["step"], gaps["clean_audio"], color=COLOURS["video"], label="video, given clean sound")
        right.plot(gaps["step"], gaps["clean_video"], color=COLOURS["audio"], label="sound, given clean video")
        left.set_ylim(0, 3 * max(gaps["loss_video"][-1], gaps["loss_audio"][-1]))
        right.legend(frameon=False, fontsize=8)
    left.legend(frameon=False, fontsize=8)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def facts(manifest: Manifest) -> str:
    """Clip, networks, files and abilities of the model."""
    config, clip = manifest.config, manifest.config.clip
    files = [manifest.folder / name for name in (manifest.base_weights, manifest.sr_weights) if name]
    size = sum(path.stat().st_size for path in files) / 1e6
    base, *enlarging = [f"{parameters(path) / 1e6:.1f} M" for path in files]
    height, width = config.output_size
    large = f", {width}×{height} after super-resolution," if config.sr else ""
    patches = (
        f"patches of {config.base.video_patch}×{config.base.video_patch} pixels and {config.base.audio_patch} samples"
    )
    usual, *others = (f"`{name}`" for name in possible_methods(manifest))
    others_work = f"{', '.join(others[:-1])} and {others[-1]} work too ([guidance](guidance.md))"
    rows = {
        "clip": f"{clip.frames} frames of {clip.width}×{clip.height} pixels at {clip.fps} fps{large} and "
        f"{clip.duration:g} s of sound at {clip.sample_rate / 1000:g} kHz",
        "networks": f"preset `{record(manifest, 'base')['preset']}`: coupled U-Net of {base} parameters on {patches}"
        + "".join(f", super-resolution of {count}" for count in enlarging),
        "files": f"`model/weights/{manifest.name}/`: weights in float16 ({size:.0f} MB), manifest with calibration, "
        "the training configurations, loss curves, `evaluation.json`",
        "conditioning": ("trained with independent timesteps: " if manifest.independent_timesteps else "")
        + f"{usual} is the default, {others_work}",
        "few steps": _few_steps(manifest),
        "licence": manifest.licence,
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows.items())])


def _few_steps(manifest: Manifest) -> str:
    if manifest.tuned is None:
        return "no tuned solvers ([few steps](few-steps.md))"
    solvers = {**manifest.tuned.base, "super-resolution": manifest.tuned.sr}
    found = [f"{', '.join(map(str, sorted(steps)))} ({name})" for name, steps in solvers.items() if steps]
    return f"tuned solvers of so many steps: {'; '.join(found)} ([few steps](few-steps.md))"


def parameters(path: Path) -> int:
    """Numbers in a safetensors file."""
    with safe_open(path, "pt") as file:
        return sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118 - it is no mapping


def record(manifest: Manifest, part: str) -> dict[str, Any]:
    """Configuration, steps and seconds of the training of "base" or "sr"."""
    found: dict[str, Any] = json.loads((manifest.folder / f"training-{part}.json").read_text(encoding="utf-8"))
    return found


def training(manifest: Manifest) -> str:
    """Steps, samples, time and rate of the runs that gave these weights."""
    lines = ["| | steps | samples | time | samples per second |", "|---|---|---|---|---|"]
    for part, name in (("base", "base"), ("sr", "super-resolution")):
        if (manifest.folder / f"training-{part}.json").exists():
            known = record(manifest, part)
            steps, seconds = known["step"], known["seconds"]
            samples = steps * known["batch"]
            minutes = f"{seconds / 60:.1f} min"
            lines.append(f"| {name} | {steps} | {samples:,} | {minutes} | {samples / seconds:.1f} |")
    return "\n".join(lines)


def tables(manifest: Manifest) -> dict[str, str]:
    """The generated parts of the page, by name."""
    return {
        "facts": facts(manifest),
        "scores": table(json.loads((manifest.folder / BOUNCE).read_text(encoding="utf-8"))),
        "scenes": scenes(manifest),
        "training": training(manifest),
    }


def scenes(manifest: Manifest) -> str:
    """Scores on the data set `scenes`, of a model that was trained on it."""
    path = manifest.folder / SCENES
    if not path.exists():
        return "The data set [`scenes`](scenes.md) is not part of what this model was trained on."
    return table(json.loads(path.read_text(encoding="utf-8")))


def write(manifest: Manifest, page: Path) -> None:
    """Write the generated parts of the page, and the training curve beside it."""
    draw(manifest.folder, page.parent / "figures" / "demo-training.png")
    replace(PARTS, page=page).write(tables(manifest))


def main() -> None:
    write(read_manifest(FOLDER / FILE_NAME), PAGE)
    if (FOLDER / COUPLING).exists():
        gaps = {name: values[-1] for name, values in columns(FOLDER / COUPLING).items()}
        print(json.dumps({"coupling": gaps}, indent=1))


if __name__ == "__main__":
    main()
