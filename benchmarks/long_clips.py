"""Measures how clips of several windows hold together, by the way they are cut. Prints JSON.

    python -m benchmarks.long_clips --folder DIR [--duration 6.4] [--clips 24] [--seconds 600] [--rows ROW …]

Clips of `bounce` scenes, whose truth is known, from the demo model. Each clip is written to the folder as soon as it is
made, so that a run which was stopped, or has used up its seconds, goes on from there. The clips that are there are
measured.

Rows are a kind (v2a, a2v, joint) and a way to cut:

`apart`: every window by itself. `fixed half`: windows overlap by half at places that stay. `anew N`: cuts drawn anew
for every evaluation, windows overlap by N frames. `anew 1 half early`: by half a window while there is more noise than
signal. `anew 1 shared noise`: the mean of the initial video noise over the frames of a window is the same in all
windows; `shared noise and sound`: that of the sound's noise too. `anew 1 coupled`: the mean of the video noise is the
same, and colour and level of x̂_0 are pulled towards those of the clip, which is what Duet does; `until L`: while half
the log signal-to-noise ratio is below L. `continued N`: window after window, each given the last N frames and their
sound of the one before, by masked ΠGDM.

The measures are those of `duet evaluate --duration`: over the whole clip, near the borders of windows, and drift.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks.report import processor
from model.checkpoint.manifest import find_models
from model.evaluation.bootstrap import scores
from model.evaluation.generation import real_clips
from model.evaluation.report import measured, seams
from model.evaluation.seams import Measured
from model.networks.config import MODALITIES, ClipSpec
from model.request import SamplingParams, clip_of
from model.runtime.base_stage import BaseStage
from model.runtime.batch_sizes import BatchSizes
from model.runtime.condition import GIVEN, Given
from model.runtime.engine import Engine
from model.runtime.pipeline import Pipeline
from model.runtime.step_progress import Reporter, Stage
from model.sampling.drift import UNTIL, pull_strength, reduce_drift
from model.sampling.error_variance import error_variance
from model.sampling.latents import Latents, clip
from model.sampling.masked_guidance import Known, masked
from model.sampling.randomness import RandomStream
from model.sampling.windows import Draw, Windows, share_mean

ROWS = (
    *(f"{kind} {way}" for kind in ("v2a", "a2v") for way in ("apart", "fixed half", "anew 0", "anew 1", "anew 4")),
    *(f"joint {way}" for way in ("apart", "fixed half", "anew 0", "anew 1", "anew 4")),
    "joint anew 1 half early",
    "joint anew 1 shared noise",
    "joint anew 1 shared noise half early",
    "joint anew 1 shared noise and sound",
    "joint anew 1 coupled",
    "joint anew 1 coupled until 0",
    "joint anew 1 coupled until 1.5",
    "joint continued 4",
    "joint continued 8",
)
AT_ONCE = 8
"""Clips in the engine at the same time."""


@dataclass(frozen=True)
class Experiment(BaseStage):
    """The base stage with another way to cut."""

    way: str = "anew 1"

    @property
    def windows(self) -> Windows:
        overlap = 8 if "half" in self.way else 0 if self.way == "apart" else self._overlap
        return replace(super().windows, overlap=overlap)

    @property
    def _overlap(self) -> int:
        return int(self.way.split()[1])

    def program(self, stream: RandomStream, report: Reporter) -> Generator[Any, Any, Latents]:
        if self.way.startswith("continued"):
            return self._continued(stream, report)
        return super().program(stream, report)

    def _continued(self, stream: RandomStream, report: Reporter) -> Generator[Any, Any, Latents]:
        window = self.manifest.config.clip
        variance = {name: error_variance(self.manifest.calibration, name) for name in MODALITIES}
        report.starts = tuple(self.windows.starts(self._draw(stream)))
        made = yield from self.guided(self._sampler(self._window_noise(stream), stream), None, stream)
        samples = self._overlap * window.samples // window.frames
        while made["video"].shape[1] < self.length.frames:
            noise = self._window_noise(stream)
            known = {}
            for name, axis, size in (("video", 1, self._overlap), ("audio", 2, samples)):
                end = made[name].narrow(axis, made[name].shape[axis] - size, size)
                clean, new = torch.zeros_like(noise[name]), torch.ones_like(noise[name], dtype=torch.bool)
                clean.narrow(axis, 0, size).copy_(end)
                new.narrow(axis, 0, size).fill_(False)
                known[name] = Known(clean, new, noise[name])
            chain = masked(self._sampler(noise, stream), self.schedule, known, clip, variance)
            following = yield from self._coupled(chain, stream)
            made = Latents(
                torch.cat([made["video"], following["video"][:, self._overlap :]], 1),
                torch.cat([made["audio"], following["audio"][..., samples:]], 2),
            )
        return self.windows.clipped(made)

    def _window_noise(self, stream: RandomStream) -> Latents:
        window = self.manifest.config.clip
        return Latents(*(stream.normal((1, *shape)) for shape in (window.video_shape, window.audio_shape)))

    def _noise(self, stream: RandomStream) -> Latents:
        noise = super()._noise(stream)
        if "and sound" not in self.way:
            return noise
        sound = noise["audio"].view(1, -1, self.windows.samples)
        return noise.replace("audio", share_mean(sound, self.windows.window).view_as(noise["audio"]))

    def _windows_at(self, t: float) -> Windows:
        if "early" in self.way:
            return replace(self.windows, overlap=8 if self.schedule.log_snr(t) < 0 else 1)
        return self.windows

    def _draw(self, stream: RandomStream) -> Draw:
        return stream.integer if self.way.startswith("anew") else lambda low, high: high

    @property
    def aligns_windows(self) -> bool:
        return "shared noise" in self.way or "coupled" in self.way

    def _reduce_drift(self, x0: Latents, t: float) -> None:
        if "coupled" in self.way:
            until = float(self.way.split()[-1]) if "until" in self.way else UNTIL
            strength = pull_strength(self.schedule.log_snr(t), until)
            if strength:
                reduce_drift(x0, self.windows, strength)
                x0.map(lambda value: value.clamp_(-1, 1))


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
    rows = {}
    for row in arguments.rows:
        seconds = _make(pipeline, row, spec, real, arguments.folder, until)
        clips, borders, used = _made(row, spec, real, arguments.folder)
        if clips is not None and clips.batch > 1:
            some = Latents(*(real[name][used] for name in ("video", "audio")))
            found = _score(
                row, measured(clips, spec), measured(some, spec), borders, pipeline.manifest.config.clip.frames
            )
            rows[row] = {"clips": clips.batch, "seconds": seconds} | found
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": processor(),
        "duration": spec.duration,
        "rows": rows,
    }
    print(json.dumps(report, indent=2))


def _real(spec: ClipSpec, clips: int, folder: Path) -> Latents:
    """Kept, because rendering takes longer than reading."""
    parts = []
    for index in range(clips):
        path = folder / f"real-{spec.frames}-{index}.safetensors"
        if not path.exists():
            _save(path, real_clips(spec, "train", 1, first=index), [])
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
        stage = Experiment(pipeline.manifest, pipeline.schedule, pipeline.device, request, params, spec, given, way=way)
        report = Reporter({"base": Stage(params.steps or 0, stage.windows.most)}, {}, lambda _: None)
        program = stage.program(RandomStream(params.seed, index), report)
        runs.append((index, stage, report, engine.submit(pipeline.evaluator, program, long=True)))
    engine.start()
    try:
        for index, stage, report, run in runs:
            latents: Latents = run.result()
            made = latents.map(lambda value: value.clamp(-1, 1))
            for name in ("video", "audio"):
                if getattr(made, name) is None:
                    made = made.replace(name, real[name][index : index + 1])
            _save(_path(folder, row, spec, index), made, stage.windows.borders(report.starts))
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


def _score(row: str, made: Measured, real: Measured, borders: list[list[int]], window: int) -> dict[str, Any]:
    found = seams(row.split()[0], made, real, borders, window)
    return {
        "scores": {each.measure: asdict(each) for each in scores(made.found, real.found)},
        "seams": found.to_dict() if found else None,
    }


if __name__ == "__main__":
    main()
