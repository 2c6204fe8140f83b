"""A part of benchmarks.gpu: how long `duet tune` takes.

Networks have random weights, for which the search costs as much as for trained ones but finds nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from benchmarks.gpu_networks import write_model
from benchmarks.gpu_run import Run
from model.runtime.pipeline import Pipeline
from model.sampling.latents import Latents
from model.tuning.problems import Halves, Material
from model.tuning.search import Search
from model.tuning.tune import Counted

CLIPS, CPU_CLIPS = 16, 1
"""For the search, and as many held out."""
EVALUATIONS, CPU_EVALUATIONS = 4, 2
"""Steps of the solvers; of super-resolution half as many."""
TEACHER_STEPS = 20
"""Fewer than `duet tune` takes, to leave time for the searches."""
FLAT = {"times": [0.0, 999.0], "video": [0.1, 0.1], "audio": [0.1, 0.1]}
"""Any will do for timing `pigdm`, the method that takes gradients."""


def tuning(run: Run) -> Iterator[dict[str, Any]]:
    """One round of the search: for generation, for v2a with gradients, and for super-resolution."""
    manifest = replace(write_model(run), calibration=FLAT)
    pipeline = Pipeline.load(manifest, run.device, "auto" if run.on_gpu else "float32")
    count, steps = (CLIPS, EVALUATIONS) if run.on_gpu else (CPU_CLIPS, CPU_EVALUATIONS)
    material = Material(pipeline, count, TEACHER_STEPS, seed=0)
    began = time.perf_counter()
    joint = material.halves("generate", None)
    clips: list[Latents] = [half.teacher for half in joint]
    yield {"clips": material.clips, "teacher_steps": TEACHER_STEPS, "teacher_s": _since(began, run)}
    rounds: dict[str, Any] = {"generate": _round(run, joint, steps)}
    yield {"rounds": rounds}
    rounds["v2a pigdm"] = _round(run, material.halves("v2a", "pigdm", clips), steps)
    yield {"rounds": rounds}
    rounds["sr"] = _round(run, material.super_resolution(clips), steps // 2)
    yield {"rounds": rounds}


def _round(run: Run, halves: Halves, evaluations: int) -> dict[str, Any]:
    """Steps of the solver, evaluations of one clip or frame that the round took, seconds, and milliseconds of one."""
    counts = [Counted(half.predict) for half in halves]
    first, second = (replace(half, predict=own) for half, own in zip(halves, counts, strict=True))
    began = time.perf_counter()
    Search(first, second, evaluations).run(1)
    taken, count = _since(began, run), sum(own.evaluations for own in counts)
    return {"steps": evaluations, "evaluations": count, "s": taken, "ms_each": round(1000 * taken / count, 3)}


def _since(began: float, run: Run) -> float:
    if run.on_gpu:
        torch.cuda.synchronize(run.device)
    return round(time.perf_counter() - began, 2)
