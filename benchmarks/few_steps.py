"""Quality against evaluations: general samplers and tuned ones, on bounce. Prints JSON.

    python -m benchmarks.few_steps --folder DIR [--clips 256] [--model demo] [--rows ROW …] [--json FILE] [--label NAME]

A row is a job, a sampler and a number of steps, such as "joint tuned 6" or "v2a clean unipc 10". Its clips are those of
the same seeds and, for v2a and a2v, the same conditions in every row. Each row's measures are written to the folder as
soon as they are known, so that a run that was stopped goes on from there; rows that are there are not made again.
`--json` adds the rows to a report such as docs/figures/few_steps.json, of which `benchmarks.few_steps_report` makes the
tables and the figure of docs/few-steps.md. The report records the SHA-256 of the base network's weights, and rows of
other weights are refused. `--label` names the rows of another model in it instead of their sampler,
and `--teacher` is the folder of the model that it was distilled from, whose clips its distances are to.
`--evaluation` adds the alignment of rows that a JSON of `duet evaluate MODEL` has of the same clips, and the
report lacks.
The report has the date of each row, but for those of an evaluation, which has none.
`--seed` is that of the clips; the report has those of seed 0, and what is chosen by its measures has to be of another.

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
from benchmarks.report import processor
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--model", default="demo", help="a folder, or a model that ships with Duet")
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--rows", nargs="+", metavar="ROW")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--label", help="of rows of another model than that of the report")
    parser.add_argument(
        "--teacher", type=Path, metavar="FOLDER", help="with the clips of many steps; default: --folder"
    )
    parser.add_argument("--evaluation", type=Path, help="such as model/weights/demo/evaluation.json")
    options = parser.parse_args()
    if options.evaluation and not options.json:
        parser.error("--evaluation adds rows to a report, and needs --json")
    folder = Path(options.model)
    manifest = read_manifest(folder / FILE_NAME) if folder.is_dir() else find_models()[options.model]
    bench = _Bench(manifest, options.clips, options.folder, options.seed, options.teacher)
    rows, dates = {}, {}
    for row in options.rows or _all_rows(manifest):
        job, _, steps = row.rsplit(maxsplit=2)
        name = f"{job} {options.label} {steps}" if options.label else row
        rows[name] = bench.measure(row)
        dates[name] = datetime.fromtimestamp(bench.file(row).stat().st_mtime, UTC).date().isoformat()
    report = {"processor": processor(), "model": manifest.name, "weights": manifest.network_hash("base")}
    report |= {"clips": options.clips, "seed": options.seed, "dates": dates, "rows": rows}
    if options.json:
        if options.json.exists():
            report = added(json.loads(options.json.read_text(encoding="utf-8")), report, options.label)
        if options.evaluation:
            known = evaluated(json.loads(options.evaluation.read_text(encoding="utf-8")), manifest)
            report = added({**known, "processor": report["processor"]}, report)
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


def added(report: dict[str, Any], new: dict[str, Any], label: str | None = None) -> dict[str, Any]:
    """`report` with the rows of `new`. Raises ValueError if the two were not made from the same noise and conditions,
    or, without a label, not with the same weights."""
    for name in ("clips", "seed") if label else ("clips", "seed", "model", "weights"):
        if report.get(name) != new[name]:
            raise ValueError(f"the report has {name} {report.get(name)}, and the new rows have {new[name]}")
    return report | {name: report[name] | new[name] for name in ("dates", "rows")}


def evaluated(evaluation: dict[str, Any], manifest: Manifest) -> dict[str, Any]:
    """A report with the rows that `duet evaluate` measured: of the same clips if clips and seed are the same. Raises
    ValueError if they are of other weights than those of `manifest`."""
    if evaluation["weights"] != manifest.weights_hash:
        raise ValueError(f"the evaluation is of other weights than those of {manifest.name}")
    params = evaluation["params"]
    rows = {
        f"{run['kind']} {run['method'] or ''}".strip() + f" {params['sampler']} {params['steps']}": {
            name: score["normalised"] for name, score in run["scores"].items()
        }
        for run in evaluation["runs"]
        if run["split"] == "train"
    }
    surroundings = {"model": evaluation["model"], "weights": manifest.network_hash("base")}
    return {**surroundings, "clips": evaluation["clips"], "seed": params["seed"], "dates": {}, "rows": rows}


def _all_rows(manifest: Manifest) -> list[str]:
    rows = []
    for job, (kind, method) in JOBS.items():
        rows += [f"{job} {sampler} {steps}" for sampler in GENERAL for steps in STEPS]
        name = solver_name("generate" if kind == "joint" else kind, method)
        rows += [f"{job} tuned {steps}" for steps in (manifest.tuned.base.get(name, {}) if manifest.tuned else {})]
    return rows


class _Bench:
    def __init__(
        self, manifest: Manifest, clips: int, folder: Path, seed: int = 0, teacher: Path | None = None
    ) -> None:
        self.folder, self.seed, self.teacher = folder, seed, teacher
        self.config, self.tuned = manifest.config, manifest.tuned
        base_only = replace(manifest, config=replace(manifest.config, sr=None), sr_weights=None)
        open_folder(folder, base_only.weights_hash if seed == 0 else f"{base_only.weights_hash} seed {seed}")
        self.generator = ClipGenerator(Pipeline.load(base_only, "cpu", "float32"))
        self.real = real_clips(manifest.config.clip, "train", clips)
        self.found_real = detect(self.real, manifest.config.clip)
        self.other = features_of(self.real, manifest.config.clip)
        self.reference = features_of(
            real_clips(manifest.config.clip, "train", clips, first=clips), manifest.config.clip
        )

    def file(self, row: str) -> Path:
        """Where the measures of a row are kept."""
        return self.folder / f"{row.replace(' ', '-')}-{self.real.batch}{self._solver(row)}.json"

    def measure(self, row: str) -> dict[str, Any]:
        path = self.file(row)
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
        params = SamplingParams(seed=self.seed, sampler=sampler, steps=steps)
        return self.generator.make(run, params, real, lambda: None)

    def _teacher(self, job: str) -> Latents:
        """Clips of many steps from the noise of every row's first ones. Raises FileNotFoundError if another folder
        should have them and has not."""
        path = (self.teacher or self.folder) / f"{job.replace(' ', '-')}-teacher.pt"
        if not path.exists():
            if self.teacher:
                raise FileNotFoundError(f"{path} is missing: measure a row of {job!r} of the teacher first")
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


if __name__ == "__main__":
    main()
