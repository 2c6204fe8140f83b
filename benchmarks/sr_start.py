"""`python -m benchmarks.sr_start`: super-resolution that starts at a lower time; prints JSON.

Large frames of the data set are averaged to the size of the base network's clips and enlarged again, from the noised
enlarged frame at each first time, with each number of evaluations of `dpmpp_2m`, and by the model's tuned solvers.
Three measures of a frame, each averaged over the frames:

- `rms`: root mean square of the difference from the true frame, in units of [-1, 1]. It rewards blur.
- `detail_energy`: mean square of the fine detail, relative to the true frame's. Fine detail is the difference from the
  frame averaged and enlarged again by interpolation. It does not reward blur, but counts noise as detail.
- `detail_recovered`: projection of the fine detail on the true frame's. It rewards neither: 1 for the true frame, and
  on average the same with noise as without.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from model.checkpoint.manifest import find_models
from model.evaluation.generation import REAL_SEED
from model.evaluation.scene_report import data_of
from model.runtime.evaluator import drive
from model.runtime.pipeline import Pipeline
from model.sampling import samplers
from model.sampling.samplers import Sampler
from model.sampling.tuned import tuned
from model.sampling.upsampling import super_resolve
from model.training.bounce import Bounce
from model.training.scenes import Scenes

STARTS = (999.0, 800.0, 600.0, 500.0, 400.0, 300.0, 150.0)
EVALUATIONS = (1, 2, 3, 4, 6, 8)
FEW, MANY = 4, 8
"""Differences are those of so few evaluations from each start to so many from the first."""
AT_ONCE = 8
"""Frames of a forward."""

MEASURES = {
    "rms": "RMS error against the true frame",
    "detail_energy": "energy of fine detail",
    "detail_recovered": "fine detail recovered",
}


def true_frames(pipeline: Pipeline, count: int) -> Tensor:
    """Large frames (count, 3, height, width) of the data set that the model was trained on, never trained with."""
    manifest = pipeline.manifest
    assert manifest.config.sr is not None
    kind = Scenes if data_of(manifest) == "scenes" else Bounce
    data = kind(manifest.config.clip, REAL_SEED, "train", manifest.config.sr.factor)
    return data.frames(torch.arange(count), pipeline.device)


class Enlarging:
    """Small frames, enlarged in several ways, against the true `large` ones (frames, 3, height, width)."""

    def __init__(self, pipeline: Pipeline, large: Tensor) -> None:
        assert pipeline.manifest.config.sr is not None
        assert pipeline.evaluator.sr is not None
        self._pipeline = pipeline
        self._factor = pipeline.manifest.config.sr.factor
        self._upsample = pipeline.evaluator.sr.upsample
        self._large = large
        self._detail = self._fine_detail(large)
        self._noise = torch.randn(large.shape[1:], generator=torch.Generator().manual_seed(0)).to(large)
        self.interpolated = self._upsample(F.avg_pool2d(large, self._factor))

    def from_start(self, start: float, evaluations: int) -> Tensor:
        """The frames by `dpmpp_2m` from the time `start`."""
        schedule = self._pipeline.schedule
        times = schedule.times(evaluations, "log_snr", start)
        return self._enlarge(start, lambda x: samplers.dpmpp_2m(x, schedule, times))

    def by_solver(self, evaluations: int) -> Tensor:
        """The frames by the tuned solver."""
        assert self._pipeline.manifest.tuned is not None
        solver = self._pipeline.manifest.tuned.sr[evaluations]
        return self._enlarge(solver.times[0], lambda x: tuned(x, self._pipeline.schedule, solver))

    def _enlarge(self, start: float, sampler: Callable[[Tensor], Sampler]) -> Tensor:
        schedule, made = self._pipeline.schedule, []
        for part in self.interpolated.split(AT_ONCE):
            x = schedule.add_noise(part, start, self._noise.expand_as(part))
            made.append(drive(super_resolve(sampler(x), schedule, part), self._pipeline.evaluator))
        return torch.cat(made)

    def measure(self, made: Tensor) -> dict[str, Tensor]:
        """The measures of each frame."""
        detail, energy = self._fine_detail(made), _mean(self._detail.square())
        return {
            "rms": _mean((made - self._large).square()).sqrt(),
            "detail_energy": _mean(detail.square()) / energy,
            "detail_recovered": _mean(detail * self._detail) / energy,
        }

    def _fine_detail(self, frames: Tensor) -> Tensor:
        return frames - self._upsample(F.avg_pool2d(frames, self._factor))


def _mean(values: Tensor) -> Tensor:
    return values.flatten(1).mean(1)


def measure(pipeline: Pipeline, count: int) -> dict[str, Any]:
    """The measures by start and number of evaluations, and for tuned solvers by number of evaluations. `differences`
    from many evaluations of the noisiest start come with half their 95 % intervals, over pairs of frames."""
    enlarging = Enlarging(pipeline, true_frames(pipeline, count))

    def rows(evaluations: Iterable[int], enlarged: Callable[[int], Tensor]) -> dict[int, dict[str, Tensor]]:
        return {each: enlarging.measure(enlarged(each)) for each in evaluations}

    by_start = {start: rows(EVALUATIONS, partial(enlarging.from_start, start)) for start in STARTS}
    solvers = rows(sorted(pipeline.manifest.tuned.sr) if pipeline.manifest.tuned else (), enlarging.by_solver)
    few = {f"{start:g}": by_start[start][FEW] for start in STARTS}
    if FEW in solvers:
        few["tuned"] = solvers[FEW]
    return {
        "model": pipeline.manifest.name,
        "weights": pipeline.manifest.weights_hash,
        "frames": count,
        "interpolated": _means(enlarging.measure(enlarging.interpolated)),
        "by_start": {f"{start:g}": {each: _means(row[each]) for each in row} for start, row in by_start.items()},
        "tuned": {each: _means(solvers[each]) for each in solvers},
        "differences": {name: _differences(row, by_start[STARTS[0]][MANY]) for name, row in few.items()},
    }


def _means(measures: dict[str, Tensor]) -> dict[str, float]:
    return {name: round(float(values.mean()), 5) for name, values in measures.items()}


def _differences(few: dict[str, Tensor], many: dict[str, Tensor]) -> dict[str, tuple[float, float]]:
    found = {}
    for name in MEASURES:
        difference = few[name] - many[name]
        half = 1.96 * float(difference.std()) / len(difference) ** 0.5
        found[name] = (round(float(difference.mean()), 5), round(half, 5))
    return found


def draw(found: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    for axis, (name, label) in zip(figure.subplots(1, len(MEASURES)), MEASURES.items(), strict=True):
        for start, row in found["by_start"].items():
            values = [each[name] for each in row.values()]
            axis.plot([int(each) for each in row], values, marker="o", markersize=3, label=f"from time {start}")
        if found["tuned"]:
            values = [each[name] for each in found["tuned"].values()]
            axis.plot([int(each) for each in found["tuned"]], values, "k--", marker="o", markersize=3, label="tuned")
        axis.set(xlabel="evaluations", title=label, xticks=EVALUATIONS)
        axis.title.set_fontsize(9)
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(*axis.get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside right center")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sr_start", description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    pipeline = Pipeline.load(find_models()[options.model], "cpu", "float32")
    found = measure(pipeline, options.frames)
    if options.figure:
        draw(found, options.figure)
    sys.stdout.write(f"{json.dumps(found, indent=1)}\n")


if __name__ == "__main__":
    main()
