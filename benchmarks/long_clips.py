"""Measures how clips of several windows hold together, by the way they are cut. Prints JSON.

    python -m benchmarks.long_clips --folder DIR [--duration 6.4] [--clips 24] [--seconds 600] [--rows ROW …]

Clips of `bounce` scenes, whose truth is known, from the demo model. Each clip is written to the folder as soon as it is
made, so that a run which was stopped, or has used up its seconds, goes on from there. The clips that are there are
measured.

Rows are a kind (v2a, a2v, joint) and a way to cut:

`apart`: every window by itself. `fixed half`: windows overlap by half at places that stay. `anew N`: cuts drawn anew
for every evaluation, windows overlap by N frames. `anew 1 half early`: by half a window while there is more noise than
signal. `anew 1 shared noise`: the mean of the initial noise over the frames of a window is the same in all windows.

The measures are those of `duet evaluate` over the whole clip, and at the borders: `seam_video`, mean squared change
between frames at whole windows over that elsewhere; `seam_audio`, the same of steps between samples; `last_video` and
`last_audio`, at the borders of the windows of the last evaluation. `hue_kept`: the share of frames whose most frequent
hue is that of a window earlier. `loudness_drift`: decibels between the loudness of neighbouring windows, without sign.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.checkpoint.manifest import find_models
from model.evaluation.alignment import Detections, detect
from model.evaluation.bootstrap import LEVEL, RESAMPLES, scores
from model.evaluation.generation import REAL_SEED
from model.networks.config import ClipSpec
from model.request import SamplingParams, clip_of
from model.runtime.base_stage import BaseStage
from model.runtime.batch_sizes import BatchSizes
from model.runtime.condition import GIVEN, Given
from model.runtime.engine import Engine
from model.runtime.pipeline import Pipeline
from model.runtime.step_progress import Reporter, Stage
from model.sampling.latents import Latents
from model.sampling.randomness import RandomStream
from model.sampling.windows import Draw, Windows
from model.training.bounce import Bounce

ROWS = (
    *(f"{kind} {way}" for kind in ("v2a", "a2v") for way in ("apart", "fixed half", "anew 0", "anew 1", "anew 4")),
    *(f"joint {way}" for way in ("apart", "fixed half", "anew 0", "anew 1", "anew 4")),
    "joint anew 1 half early",
    "joint anew 1 shared noise",
)
AT_ONCE = 8
"""Clips in the engine at the same time."""


@dataclass(frozen=True)
class Experiment(BaseStage):
    """The base stage with another way to cut. `last` keeps the borders of the latest evaluation."""

    way: str = "anew 1"
    last: tuple[list[int], ...] = ([],)

    @property
    def windows(self) -> Windows:
        overlap = 8 if "half" in self.way else 0 if self.way == "apart" else int(self.way.split()[1])
        return replace(super().windows, overlap=overlap)

    def _windows_at(self, t: float) -> Windows:
        if "early" in self.way:
            return replace(self.windows, overlap=8 if self.schedule.log_snr(t) < 0 else 1)
        return self.windows

    def _draw(self, stream: RandomStream) -> Draw:
        anew = self.way.startswith("anew")

        def draw(low: int, high: int) -> int:
            first = stream.integer(low, high) if anew else high
            windows = self._windows_at(0.0)
            self.last[0][:] = windows.starts(lambda low, high: min(first, high))
            return first

        return draw

    @property
    def shares_noise(self) -> bool:
        return "shared noise" in self.way


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--duration", type=float, default=6.4)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=600, help="at most so long for making clips (default 600)")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS, metavar="ROW")
    parser.add_argument("--model", default="demo")
    arguments = parser.parse_args()
    pipeline = Pipeline.load(find_models(None)[arguments.model], "cpu", "float32")
    pipeline.evaluator.use_batch_sizes(BatchSizes((1, 2, 4, 8)))
    spec = clip_of(arguments.duration, pipeline.manifest.config.clip)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    real = _real(spec, arguments.clips, arguments.folder)
    until = time.monotonic() + arguments.seconds
    rows, found_real = {}, detect(real, spec, 4)
    for row in arguments.rows:
        seconds = _make(pipeline, row, spec, real, arguments.folder, until)
        clips, borders, used = _made(row, spec, real, arguments.folder)
        if clips is not None and clips.batch > 1:
            some = Latents(*(real[name][used] for name in ("video", "audio")))
            rows[row] = {"clips": clips.batch, "seconds": seconds} | _measures(clips, some, borders, spec, found_real)
    whole = [list(range(16, spec.frames, 16))] * real.batch
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": _processor(),
        "duration": spec.duration,
        "real": _measures(real, real, whole, spec, found_real),
        "rows": rows,
    }
    print(json.dumps(report, indent=2))


def _real(spec: ClipSpec, clips: int, folder: Path) -> Latents:
    """One at a time: the tones of a long scene take much memory while they are rendered."""
    parts = []
    for index in range(clips):
        path = folder / f"real-{spec.frames}-{index}.safetensors"
        if not path.exists():
            made = Bounce(spec, REAL_SEED, "train").batch(torch.tensor([index]))
            _save(path, made, [])
        parts.append(_load(path)[0])
    return Latents(*(torch.cat([part[name] for part in parts]) for name in ("video", "audio")))


def _make(pipeline: Pipeline, row: str, spec: ClipSpec, real: Latents, folder: Path, until: float) -> float:
    """Make the clips of a row that are not there yet; the seconds that it took."""
    began = time.perf_counter()
    missing = [index for index in range(real.batch) if not _path(folder, row, spec, index).exists()]
    for start in range(0, len(missing), AT_ONCE):
        if time.monotonic() > until:
            break
        _make_some(pipeline, row, spec, real, folder, missing[start : start + AT_ONCE])
    return round(time.perf_counter() - began, 1)


def _make_some(
    pipeline: Pipeline, row: str, spec: ClipSpec, real: Latents, folder: Path, indexes: Sequence[int]
) -> None:
    kind, way = row.split(" ", 1)
    request = "generate" if kind == "joint" else kind
    guidance = None if kind == "joint" else "clean"
    params = SamplingParams(seed=0, guidance=guidance, super_resolution=False, duration=spec.duration)
    params = params.resolve(request, pipeline.manifest)
    engine = Engine(AT_ONCE)
    runs = []
    for index in indexes:
        given = None
        if request in GIVEN:
            modality = GIVEN[request]
            given = Given(modality, real[modality][index], pipeline.manifest.config.clip)
        stage = Experiment(
            pipeline.manifest, pipeline.schedule, pipeline.device, request, params, spec, given, way, ([],)
        )
        report = Reporter({"base": Stage(params.steps, stage.windows.most)}, {}, lambda _: None)
        program = stage.program(RandomStream(params.seed, index), report)
        runs.append((index, stage, engine.submit(pipeline.evaluator, program, long=True)))
    engine.start()
    try:
        for index, stage, run in runs:
            latents: Latents = run.result()
            made = latents.map(lambda value: value.clamp(-1, 1))
            for name in ("video", "audio"):
                if getattr(made, name) is None:
                    made = made.replace(name, real[name][index : index + 1])
            starts = stage.last[0]
            ends = {start + stage.windows.window for start in starts}
            _save(_path(folder, row, spec, index), made, sorted({*starts, *ends} - {0, spec.frames}))
    finally:
        engine.close(RuntimeError("the benchmark has ended"))
        engine.join()


def _path(folder: Path, row: str, spec: ClipSpec, index: int) -> Path:
    return folder / f"{row.replace(' ', '-')}-{spec.frames}-{index}.safetensors"


def _save(path: Path, clip: Latents, borders: list[int]) -> None:
    partial = path.with_suffix(".part")
    save_file(
        {
            "video": clip["video"].contiguous(),
            "audio": clip["audio"].contiguous(),
            "borders": torch.tensor(borders, dtype=torch.int64),
        },
        partial,
    )
    partial.replace(path)


def _load(path: Path) -> tuple[Latents, list[int]]:
    kept = load_file(path)
    return Latents(kept["video"], kept["audio"]), kept["borders"].tolist()


def _made(row: str, spec: ClipSpec, real: Latents, folder: Path) -> tuple[Latents | None, list[list[int]], list[int]]:
    """The clips of a row that are there, the borders of their last evaluation, and their numbers."""
    paths = {index: _path(folder, row, spec, index) for index in range(real.batch)}
    used = [index for index, path in paths.items() if path.exists()]
    if not used:
        return None, [], []
    kept = [_load(paths[index]) for index in used]
    clips = Latents(*(torch.cat([clip[name] for clip, _ in kept]) for name in ("video", "audio")))
    return clips, [borders for _, borders in kept], used


def _measures(
    clips: Latents, real: Latents, borders: list[list[int]], spec: ClipSpec, found_real: Detections
) -> dict[str, Any]:
    found = detect(clips, spec, 4)
    whole = [list(range(16, spec.frames, 16))] * clips.batch
    measures: dict[str, Any] = {
        score.measure: {"value": asdict(score.value), "normalised": asdict(score.normalised)}
        for score in scores(found, found_real)
    }
    change = (clips["video"][:, 1:] - clips["video"][:, :-1]).square().mean((2, 3, 4))
    step = (clips["audio"][:, 0, 1:] - clips["audio"][:, 0, :-1]).square()
    per_frame = spec.samples // spec.frames
    for name, at in (("seam", whole), ("last", borders)):
        measures[f"{name}_video"] = _ratio(_at(change, at, 1))
        measures[f"{name}_audio"] = _ratio(_at(step, at, per_frame))
    hue = found.discs.area.argmax(-1)
    kept = (hue[:, 16:] == hue[:, :-16]).float()
    measures["hue_kept"] = _ratio(torch.stack([kept.mean(1), torch.ones(len(kept))], 1))
    loud = 10 * clips["audio"][:, 0].unflatten(-1, (-1, 16 * per_frame)).square().mean(-1).clamp(min=1e-8).log10()
    drift = loud.diff(dim=1).abs().mean(1)
    measures["loudness_drift"] = _ratio(torch.stack([drift, torch.ones(len(drift))], 1))
    return measures


def _at(change: Tensor, borders: list[list[int]], per_frame: int) -> Tensor:
    """(clips, 2): mean of `change` at the borders, where element b − 1 leads to b, and elsewhere."""
    rows = []
    for values, frames in zip(change, borders, strict=True):
        here = torch.zeros(len(values), dtype=torch.bool)
        here[[frame * per_frame - 1 for frame in frames]] = True
        rows.append(torch.stack([values[here].mean() if frames else values.mean(), values[~here].mean()]))
    return torch.stack(rows)


def _ratio(terms: Tensor) -> dict[str, float]:
    """Ratio of the sums of (clips, 2), with its bootstrap interval."""
    drawn = torch.randint(0, len(terms), (RESAMPLES, len(terms)), generator=torch.Generator().manual_seed(0))
    sums = terms.double()[drawn].sum(1)
    tail = (1 - LEVEL) / 2
    low, high = (sums[:, 0] / sums[:, 1]).quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    total = terms.double().sum(0)
    return {"value": float(total[0] / total[1]), "low": low, "high": high}


def _processor() -> str:
    names: Iterator[str] = (
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    return next(names, platform.processor())


if __name__ == "__main__":
    main()
