"""Quality against evaluations: general samplers and tuned ones, on bounce. Prints JSON, and draws a figure.

    python -m benchmarks.few_steps --folder DIR [--clips 256] [--model demo] [--rows ROW …] [--figure FILE]

A row is a job, a sampler and a number of steps, such as "joint tuned 6" or "v2a clean unipc 10". Its clips are those of
the same seeds and, for v2a and a2v, the same conditions in every row. Each row's measures are written to the folder as
soon as they are known, so that a run that was stopped goes on from there; rows that are there are not made again.

The measures are those of `duet evaluate`, normalised: 0 for shuffled pairs, 1 for real clips. `distance`: mean distance
from the clip of the same noise in TEACHER steps of dpmpp_2m, over the deviation of its values, in the first NEAR clips.
`log_mel`, `sound_events`, `gradients`, `picture_events`: Fréchet distances without published weights, to other real
clips; `floor` is that of real clips. All have 95 % intervals.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.kept_clips import open_folder
from model.checkpoint.manifest import FILE_NAME, Manifest, find_models, read_manifest
from model.evaluation.alignment import detect
from model.evaluation.bootstrap import scores
from model.evaluation.distances import estimate, frechet_distance
from model.evaluation.fidelity import DISTANCES, features_of
from model.evaluation.generation import ClipGenerator, EvaluationRun, real_clips
from model.request import SamplingParams
from model.runtime.pipeline import Pipeline
from model.sampling.latents import Latents
from model.sampling.tuned_solver import solver_name

JOBS = {
    "joint": ("joint", None),
    "v2a clean": ("v2a", "clean"),
    "a2v clean": ("a2v", "clean"),
    "v2a pigdm": ("v2a", "pigdm"),
    "a2v pigdm": ("a2v", "pigdm"),
}
"""Kind and guidance by name."""
STEPS = (4, 6, 8, 10, 20)
GENERAL = ("dpmpp_2m", "dpmpp_3m", "unipc", "ddim")
TEACHER, NEAR = 64, 24
SHOWN = {"onset_f1": "onset F1", "pitch_x": "pitch-x correlation", "distance": "distance from 64 steps"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--model", default="demo", help="a folder, or a model that ships with Duet")
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--rows", nargs="+", metavar="ROW")
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    folder = Path(options.model)
    manifest = read_manifest(folder / FILE_NAME) if folder.is_dir() else find_models()[options.model]
    rows = options.rows or _all_rows(manifest)
    bench = _Bench(manifest, options.clips, options.folder)
    measured = {row: bench.measure(row) for row in rows}
    if options.figure:
        draw(measured, options.figure)
    print(
        json.dumps({"date": datetime.now(UTC).date().isoformat(), "model": manifest.name, "rows": measured}, indent=1)
    )


def _all_rows(manifest: Manifest) -> list[str]:
    rows = []
    for job, (kind, method) in JOBS.items():
        rows += [f"{job} {sampler} {steps}" for sampler in GENERAL for steps in STEPS]
        name = solver_name("generate" if kind == "joint" else kind, method)
        rows += [f"{job} tuned {steps}" for steps in (manifest.tuned.base.get(name, {}) if manifest.tuned else {})]
    return rows


class _Bench:
    def __init__(self, manifest: Manifest, clips: int, folder: Path) -> None:
        self.folder = folder
        self.config, self.tuned = manifest.config, manifest.tuned
        base_only = replace(manifest, config=replace(manifest.config, sr=None), sr_weights=None)
        open_folder(folder, base_only.weights_hash)
        self.generator = ClipGenerator(Pipeline.load(base_only, "cpu", "float32"))
        self.real = real_clips(manifest.config.clip, "train", clips)
        self.found_real = detect(self.real, manifest.config.clip)
        self.other = features_of(self.real, manifest.config.clip)
        self.reference = features_of(
            real_clips(manifest.config.clip, "train", clips, first=clips), manifest.config.clip
        )

    def measure(self, row: str) -> dict[str, Any]:
        path = self.folder / f"{row.replace(' ', '-')}-{self.real.batch}{self._solver(row)}.json"
        if path.exists():
            return json.loads(path.read_text())
        job, sampler, steps = row.rsplit(maxsplit=2)
        kind, _ = JOBS[job]
        made = self._make(job, sampler, int(steps), self.real)
        found = {
            score.measure: asdict(score.normalised) for score in scores(detect(made, self.config.clip), self.found_real)
        }
        features = features_of(_generated(made, kind), self.config.clip)
        for each in (each for each in DISTANCES if each.name in features):
            real = self.reference[each.name]
            divisor = each.divisor(real)
            value = estimate(frechet_distance, features[each.name] / divisor, real / divisor)
            floor = frechet_distance(self.other[each.name] / divisor, real / divisor)
            found[each.name] = {**asdict(value), "floor": floor}
        teacher = self._teacher(job)
        near = made.map(lambda value: value[: teacher.batch])
        for name, own in _distances(near, teacher, kind).items():
            reach = 1.96 * float(own.std()) / math.sqrt(len(own))
            mean = float(own.mean())
            found[name] = {"value": mean, "low": mean - reach, "high": mean + reach}
        path.write_text(json.dumps(found))
        return found

    def _solver(self, row: str) -> str:
        """A part of the file's name that tells one tuned solver of these weights from another."""
        job, sampler, steps = row.rsplit(maxsplit=2)
        if sampler != "tuned" or self.tuned is None:
            return ""
        kind, method = JOBS[job]
        solver = self.tuned.find("generate" if kind == "joint" else kind, method).get(int(steps))
        return f"-{hashlib.sha256(repr(solver).encode()).hexdigest()[:8]}"

    def _make(self, job: str, sampler: str, steps: int, real: Latents) -> Latents:
        run = EvaluationRun(*JOBS[job], "train")
        params = SamplingParams(seed=0, sampler=sampler, steps=steps)
        return self.generator.make(run, params, real, lambda: None)

    def _teacher(self, job: str) -> Latents:
        """Clips of many steps from the noise of every row's first ones."""
        path = self.folder / f"{job.replace(' ', '-')}-teacher.pt"
        if not path.exists():
            few = self.real.map(lambda value: value[:NEAR])
            made = self._make(job, "dpmpp_2m", TEACHER, few)
            torch.save({"video": made["video"], "audio": made["audio"]}, path)
        kept = torch.load(path, weights_only=True)
        return Latents(kept["video"], kept["audio"])


def _generated(made: Latents, kind: str) -> Latents:
    """Without the modality that was given."""
    return Latents(None if kind == "v2a" else made.video, None if kind == "a2v" else made.audio)


def _distances(made: Latents, teacher: Latents, kind: str) -> dict[str, Tensor]:
    """Of every clip, by modality that was made, and their mean."""
    names = {"joint": ("video", "audio"), "v2a": ("audio",), "a2v": ("video",)}[kind]
    found = {
        f"distance_{name}": (made[name] - teacher[name]).flatten(1).square().mean(1).sqrt() / teacher[name].std()
        for name in names
    }
    return found | {"distance": torch.stack(list(found.values())).mean(0)}


def draw(measured: dict[str, dict[str, Any]], path: Path) -> None:
    """One row of axes a job, one column a measure, against evaluations."""
    from matplotlib.figure import Figure

    jobs = [job for job in JOBS if any(row.startswith(f"{job} ") for row in measured)]
    figure = Figure(figsize=(12, 3.2 * len(jobs)), layout="constrained")
    axes = figure.subplots(len(jobs), len(SHOWN), squeeze=False)
    for line, job in zip(axes, jobs, strict=True):
        curves: dict[str, dict[int, dict[str, Any]]] = {}
        for row, found in measured.items():
            own, sampler, steps = row.rsplit(maxsplit=2)
            if own == job:
                curves.setdefault(sampler, {})[int(steps)] = found
        for axis, (measure, label) in zip(line, SHOWN.items(), strict=True):
            for sampler, curve in sorted(curves.items()):
                counts = sorted(curve)
                values = [curve[count][measure] for count in counts]
                middle = [value["value"] for value in values]
                reach = [
                    [max(0.0, value["value"] - value["low"]) for value in values],
                    [max(0.0, value["high"] - value["value"]) for value in values],
                ]
                bold = sampler == "tuned"
                axis.errorbar(
                    counts,
                    middle,
                    reach,
                    marker="o",
                    markersize=4,
                    capsize=2,
                    linewidth=2.4 if bold else 1,
                    label=sampler,
                )
            axis.set(title=f"{job}: {label}", xlabel="evaluations of the network")
            axis.grid(alpha=0.3)
        line[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
