"""`python -m benchmarks.sr_start`: super-resolution that starts at a lower time; prints JSON.

Large frames of the data set are averaged to the size of the base network's clips and enlarged again, from the noised
enlarged frame at each first time, with each number of evaluations of `dpmpp_2m`. The error is the root mean square of
the difference from the true frame, in units of [-1, 1], beside that of the enlarged frame itself.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from model.checkpoint.manifest import find_models
from model.evaluation.generation import REAL_SEED
from model.evaluation.scene_report import data_of
from model.runtime.evaluator import Evaluator
from model.runtime.pipeline import Pipeline
from model.sampling import samplers
from model.sampling.samplers import EvaluateFrames
from model.sampling.upsampling import super_resolve
from model.training.bounce import Bounce
from model.training.scenes import Scenes

STARTS = (999.0, 800.0, 600.0, 450.0, 300.0, 150.0)
EVALUATIONS = (1, 2, 3, 4, 6, 8)
AT_ONCE = 8
"""Frames of a forward."""


def true_frames(pipeline: Pipeline, count: int) -> Tensor:
    """Large frames (count, 3, height, width) of the data set that the model was trained on, never trained with."""
    manifest = pipeline.manifest
    assert manifest.config.sr is not None
    kind = Scenes if data_of(manifest) == "scenes" else Bounce
    data = kind(manifest.config.clip, REAL_SEED, "train", manifest.config.sr.factor)
    return data.frames(torch.arange(count), pipeline.device)


def enlarged(pipeline: Pipeline, small: Tensor, noise: Tensor, start: float, evaluations: int) -> Tensor:
    """`small` frames by super-resolution from `start`."""
    evaluator: Evaluator = pipeline.evaluator
    assert evaluator.sr is not None
    schedule, upsampled = evaluator.schedule, evaluator.sr.upsample(small)
    times = schedule.times(evaluations, "log_snr", start)
    x = schedule.add_noise(upsampled, times[0], noise.expand_as(upsampled))
    program = super_resolve(samplers.dpmpp_2m(x, schedule, times), schedule, upsampled)
    try:
        request: EvaluateFrames = next(program)
        while True:
            request = program.send(evaluator([request])[0])
    except StopIteration as stop:
        return stop.value


def measure(pipeline: Pipeline, count: int) -> dict[str, Any]:
    large = true_frames(pipeline, count)
    factor = pipeline.manifest.config.sr.factor if pipeline.manifest.config.sr else 1
    small = F.avg_pool2d(large, factor)
    noise = torch.randn(large.shape[1:], generator=torch.Generator().manual_seed(0)).to(large)
    assert pipeline.evaluator.sr is not None

    def error(made: Tensor) -> float:
        return round(float((made - large).square().mean().sqrt()), 5)

    rows = {
        f"{start:g}": {
            evaluations: error(
                torch.cat([enlarged(pipeline, part, noise, start, evaluations) for part in small.split(AT_ONCE)])
            )
            for evaluations in EVALUATIONS
        }
        for start in STARTS
    }
    return {
        "model": pipeline.manifest.name,
        "weights": pipeline.manifest.weights_hash,
        "frames": count,
        "enlarged_only": error(pipeline.evaluator.sr.upsample(small)),
        "by_start": rows,
    }


def draw(found: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axis = figure.subplots()
    for start, row in found["by_start"].items():
        axis.plot([int(each) for each in row], list(row.values()), marker="o", markersize=3, label=f"from time {start}")
    axis.set(xlabel="evaluations", ylabel="RMS error against the true frame", xticks=EVALUATIONS)
    axis.legend(frameon=False, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sr_start", description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--frames", type=int, default=32)
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
