"""DDPM with every step of the schedule against solvers of few (Ruan et al., 2023, table 1), on the demo model.

    python -m benchmarks.ddpm --folder DIR [--clips 32] [--seconds 3600] [--json FILE]

Generates joint clips of the same seeds with each of ROWS, GROUP at a time, and measures distances and alignment. The
number of clips is the same for all rows: as many as the slowest has. Each group is written to the folder once it is
made, so that a run that was stopped, or has used up its seconds, goes on from there. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks.kept_clips import open_folder
from benchmarks.report import processor
from model.checkpoint.manifest import find_models
from model.evaluation.alignment import detect
from model.evaluation.bootstrap import scores
from model.evaluation.fidelity import DISTANCES, features_of, fidelity
from model.evaluation.generation import ClipGenerator, real_clips, video_of
from model.networks.config import MODALITIES, ClipSpec
from model.request import SamplingParams
from model.runtime.pipeline import Pipeline
from model.sampling.latents import Latents

GROUP = 8
"""Clips that are generated together, and written to one file."""

REFERENCE = 1024
"""Real clips that the distances are to: more than are generated, so that chance in them matters little."""

SHOWN = {"onset_f1": "onset F1", "pitch_x": "pitch-x correlation", "lag": "in step", "av_align": "AV-Align"}


@dataclass(frozen=True)
class Row:
    """How clips are generated. `evaluations` of the network for each."""

    name: str
    sampler: str
    steps: int
    order: int | None = None
    evaluations: int = 0


ROWS = (
    Row("dpmpp_2m, 20 steps", "dpmpp_2m", 20, evaluations=20),
    Row("DPM-Solver as published, 20 steps", "dpm_solver", 20, order=3, evaluations=20),
    Row("DDPM, 1,000 steps", "ddpm", 1000, evaluations=1000),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the generated clips")
    parser.add_argument("--model", default="demo", help="a model that ships with Duet")
    parser.add_argument("--clips", type=int, default=32, help=f"clips of each row, a multiple of {GROUP}")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no group after this time")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    if options.clips < GROUP or options.clips % GROUP:
        parser.error(f"--clips must be a multiple of {GROUP}; got {options.clips}")
    report = run(options.model, options.folder, ROWS, options.clips, time.monotonic() + options.seconds)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(table(report))


def run(model: str, folder: Path, rows: Sequence[Row], clips: int, until: float) -> dict[str, Any]:
    """Make the clips that are missing and measure all rows. Raises RuntimeError if a row has no clips yet, or the
    folder has clips of other weights."""
    manifest = find_models()[model]
    base_only = replace(manifest, config=replace(manifest.config, sr=None), sr_weights=None)
    open_folder(folder, base_only.weights_hash)
    generator = ClipGenerator(Pipeline.load(base_only, "cpu", "float32"))
    for row in rows:
        for first in range(0, clips, GROUP):
            path = _path(folder, row, first)
            if not path.exists() and time.monotonic() < until:
                _make(generator, row, first, path)
    made = {row: _made(folder, row, clips) for row in rows}
    missing = [row.name for row, (found, _) in made.items() if found is None]
    if missing:
        raise RuntimeError(f"no clips yet of {', '.join(missing)}")
    count = min(found.batch for found, _ in made.values() if found is not None)
    spec = manifest.config.clip
    real = real_clips(spec, "train", REFERENCE, first=count)
    other = real_clips(spec, "train", count)
    measured = {
        row.name: {"evaluations": row.evaluations, "processor_seconds": round(seconds, 2)}
        | measures(found.map(lambda value: value[:count]), other, real, spec)
        for row, (found, seconds) in made.items()
        if found is not None
    }
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": processor(),
        "model": manifest.name,
        "clips": count,
        "reference": REFERENCE,
        "rows": measured,
    }


def measures(made: Latents, other: Latents, real: Latents, spec: ClipSpec) -> dict[str, Any]:
    """Distances to `real`, where `other` real clips give the floor, and alignment scores, all with intervals."""
    distances = fidelity(*(features_of(each, spec) for each in (made, other, real)))
    return {
        "distances": {each.distance: asdict(each) for each in distances},
        "scores": {score.measure: asdict(score) for score in scores(detect(made, spec), detect(real, spec))},
    }


def _path(folder: Path, row: Row, first: int) -> Path:
    return folder / f"{row.sampler}-{row.steps}-{first:04d}.safetensors"


def _make(generator: ClipGenerator, row: Row, first: int, path: Path) -> None:
    params = SamplingParams(0, sampler=row.sampler, steps=row.steps, order=row.order, super_resolution=False)
    began = time.process_time()
    clips = list(generator.generate("generate", params, range(first, first + GROUP)))
    seconds = (time.process_time() - began) / GROUP
    sounds = [clip.audio for clip in clips if clip.audio is not None]
    partial = path.with_suffix(".part")
    save_file(
        {
            "video": torch.stack([video_of(clip) for clip in clips]).contiguous(),
            "audio": torch.stack(sounds),
            "seconds": torch.tensor(seconds, dtype=torch.float64),
        },
        partial,
    )
    partial.replace(path)


def _made(folder: Path, row: Row, clips: int) -> tuple[Latents | None, float]:
    """The clips of a row that are there, without gaps, and the mean seconds of processor time of each."""
    kept = []
    for first in range(0, clips, GROUP):
        path = _path(folder, row, first)
        if not path.exists():
            break
        kept.append(load_file(path))
    if not kept:
        return None, 0.0
    latents = Latents(*(torch.cat([group[name] for group in kept]) for name in MODALITIES))
    return latents, sum(float(group["seconds"]) for group in kept) / len(kept)


def table(report: dict[str, Any]) -> str:
    """The figures as Markdown."""
    labels = {each.name: each.label for each in DISTANCES}
    heads = ["", "evaluations", "processor time of a clip", *SHOWN.values(), *labels.values()]
    lines = [heads, ["---"] * len(heads)]
    for name, row in report["rows"].items():
        cells = [name, f"{row['evaluations']:,}", f"{row['processor_seconds']:.2f} s"]
        cells += [_interval(row["scores"][measure]["normalised"], 2) for measure in SHOWN]
        cells += [_interval(row["distances"][distance]["value"], 0) for distance in labels]
        lines.append(cells)
    floors = next(iter(report["rows"].values()))["distances"]
    real = [_interval(floors[distance]["floor"], 0) for distance in labels]
    lines.append(["other real clips", "", "", *[""] * len(SHOWN), *real])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _interval(value: dict[str, float], digits: int) -> str:
    shown = (f"{value[part]:.{digits}f}".replace("-", "−") for part in ("value", "low", "high"))
    return "{} ({} … {})".format(*shown)


if __name__ == "__main__":
    main()
