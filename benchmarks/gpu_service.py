"""Parts of benchmarks.gpu: the service as a whole, and training."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import model.training
from benchmarks.embedded_stack import embedded_stack
from benchmarks.end_to_end import Api, film
from benchmarks.forward import seconds
from benchmarks.gpu_networks import write_model
from benchmarks.gpu_profile import profile
from benchmarks.gpu_run import Run
from model.networks.config import ModelConfig
from model.networks.coupled_unet import CoupledUNet
from model.networks.pair import Pair
from model.training.configuration import read_configuration
from model.training.distribution import join_processes
from model.training.gradients import Gradients
from model.training.loop import Limits, Start, TrainingRun, prepare, train

CONFIGURATION = Path(model.training.__file__).parent / "configs" / "demo.toml"
SECONDS, CPU_SECONDS = 30, 1
"""Of training, after the first step."""
SETTLED = 10
"""Steps before its rate is measured."""
FEW = {"quality": "fast", "steps": 2}
"""On a CPU, where the rate means nothing."""
LOG_LINES = 40
"""Kept of the stack's log where something fails."""
TO_STOP = 4
"""Seconds left for the stack to end."""


def stack(run: Run) -> Iterator[dict[str, Any]]:
    """`duet serve` with the preset's networks: the time to ready, one job of each kind, many at once."""
    deadline = time.monotonic() + run.seconds - TO_STOP
    manifest = write_model(run)
    upload = film(run.folder / "film.mp4", seconds=2)
    settings = {"DUET_MODELS": str(run.folder / "models"), "DUET_DEFAULT_MODEL": manifest.name}
    folder = run.folder / "stack"
    try:
        with embedded_stack(folder, "duet", "serve", DUET_DEVICE=run.device, **settings) as (url, ready):
            yield {"ready_s": round(ready, 2)}
            few = {} if run.on_gpu else FEW
            yield from _jobs(Api(url, upload, duration=manifest.config.clip.duration, **few), run, deadline)
    except BaseException:
        if (folder / "log").exists():
            yield {"log": (folder / "log").read_text(errors="replace").splitlines()[-LOG_LINES:]}
        raise


def _jobs(api: Api, run: Run, deadline: float) -> Iterator[dict[str, Any]]:
    duration = api.parameters["duration"]
    for kind, submit in (("generate", api.generate), ("v2a", api.v2a), ("a2v", api.a2v)):
        began = time.perf_counter()
        job = api.finish(submit()[0], deadline)
        yield {f"{kind}_s": round(time.perf_counter() - began, 3), f"{kind}_timings_s": job["timings"]}
    count = 16 if run.on_gpu else 2
    began = time.perf_counter()
    jobs = [api.generate()[0] for _ in range(count)]
    for done, job in enumerate(jobs, 1):
        api.finish(job, deadline)
        taken = time.perf_counter() - began
        rate = done * duration / taken
        yield {"at_once": count, "finished": done, "seconds": round(taken, 2), "clip_seconds_per_s": round(rate, 3)}


def training(run: Run) -> Iterator[dict[str, Any]]:
    """The rate of training the demo model's base network, after its first steps, of which the first records a graph."""
    end = time.monotonic() + run.seconds
    changes = ["steps=1000000", "output.samples=0", "output.coupling=0", "output.tensorboard=false"]
    changes += ["output.checkpoint=1000000", "output.losses=50"]
    if run.preset == "tiny":
        changes += ["preset=tiny", "batch=4"]
    config = read_configuration(CONFIGURATION, changes)
    yield {"batch": config.batch, "captions": config.text.encoder}
    limits = Limits()
    clock = _Clock(limits, end, run)
    with join_processes(run.device) as processes:
        prepared = prepare(config, run.folder / "training", processes, Start(), lambda _: None)
        parameters = sum(parameter.numel() for parameter in prepared.state.network.parameters())
        flop = 3 * operations(config.model)
        yield {
            "dtype": str(prepared.dtype),
            "million_parameters": round(parameters / 1e6, 1),
            "tflop_per_sample": flop / 1e12,
        }
        clock.began = time.monotonic()
        train(prepared, limits, clock)
    found = {"first_step_s": round(clock.first, 2), "steps": len(clock.times)}
    settled = clock.times[min(SETTLED, len(clock.times) // 2) :]
    if len(settled) > 1:
        rate = (len(settled) - 1) * config.batch / (settled[-1] - settled[0])
        found |= {"samples_per_s": round(rate, 1), "tflop_per_s": round(rate * flop / 1e12, 4)}
        if run.ceiling:
            found["share"] = round(rate * flop / run.ceiling, 4)
    if run.on_gpu:
        found["peak_gib"] = round(torch.cuda.max_memory_reserved() / 2**30, 2)
    yield found
    yield from _gradients(run, prepared)


def _gradients(run: Run, prepared: TrainingRun) -> Iterator[dict[str, Any]]:
    """Forward and backward of one step as training runs them (on a GPU a CUDA graph) and eagerly, and where the time
    goes."""
    config, network = prepared.config, prepared.state.network
    inputs = next(prepared.objective.inputs(prepared.source, prepared.state.step, range(config.batch)))
    eager = Gradients(prepared.gradients.predict, network, 1, None)

    def step(gradients: Gradients) -> None:
        network.zero_grad()
        gradients(prepared.objective, config, iter([inputs]), seed=0)

    for name, gradients in (("gradients_ms", prepared.gradients), ("gradients_eager_ms", eager)):
        step(gradients)
        times = [seconds(partial(step, gradients), run.device) for _ in range(5 if run.on_gpu else 1)]
        yield {name: round(1000 * statistics.median(times), 2)}
    yield {"training step": profile(run, partial(step, prepared.gradients))}


def operations(config: ModelConfig) -> int:
    """Floating point operations of one forward of the base network, counted on the meta device."""
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        clip, t = config.clip, torch.empty(1)
        CoupledUNet(config.base)(Pair(torch.empty(1, *clip.video_shape), torch.empty(1, *clip.audio_shape)), Pair(t, t))
    return counter.get_total_flops()


class _Clock:
    """An observer of a run that keeps the time of every step, and ends the run `SECONDS` after its first step, or when
    half of the time until `end` has passed."""

    def __init__(self, limits: Limits, end: float, run: Run) -> None:
        self.limits, self.end, self.on_gpu = limits, end, run.on_gpu
        self.began = 0.0
        self.times: list[float] = []

    def say(self, text: str) -> None:
        pass

    def step(self, step: int, steps: int, per_second: float, loss: float) -> None:
        if self.on_gpu and (len(self.times) == SETTLED or self.limits.reached):
            torch.cuda.synchronize()  # the host runs ahead of the device; the rate is measured between these two steps
        now = time.monotonic()
        if not self.times:
            self.limits.deadline = now + min(SECONDS if self.on_gpu else CPU_SECONDS, 0.5 * (self.end - now))
        self.times.append(now)

    @property
    def first(self) -> float:
        """Seconds of the first step."""
        return self.times[0] - self.began if self.times else float("inf")
