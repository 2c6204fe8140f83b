"""A real worker whose networks sleep for a known time instead of computing, like a CPU that waits for a GPU.

All time beyond that is the service's overhead. `python -m benchmarks.timed [worker]` runs the stack, or one worker of
it, with the settings of the environment and these:

    DUET_TIMED_CALL     seconds per forward of any size      (default 0.02)
    DUET_TIMED_CLIP     additional seconds per clip in it    (default 0.005)
    DUET_TIMED_LEDGER   file with one line per forward: its end, its seconds, its clips

A job with a seed of at least BROKEN raises after three steps.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from duet.standalone.stack import serve
from model.checkpoint.manifest import Manifest, find_models
from model.networks.config import UNetConfig
from model.networks.pair import Pair
from model.runtime.allocator import keep_freed_memory
from model.runtime.batch_sizes import BatchSizes
from model.runtime.evaluator import Evaluator, Program
from model.runtime.pipeline import ClipPart, ClipRequest, Pipeline, StepProgress
from model.sampling.schedule import NoiseSchedule
from service.settings import Settings, load_settings
from workers.app import run
from workers.decoder import warm
from workers.fatal_exit import exit_device_lost
from workers.model_maker import ModelMaker

CALL, CLIP, LEDGER = "DUET_TIMED_CALL", "DUET_TIMED_CLIP", "DUET_TIMED_LEDGER"
SIZES = (1, 2, 4, 8, 16)
BROKEN = 10**9


class TimedNetwork(nn.Module):
    """Stands in for the coupled U-Net; a forward takes `call` seconds plus `clip` per clip."""

    config = UNetConfig()

    def __init__(self, call: float, clip: float) -> None:
        super().__init__()
        self.call, self.clip = call, clip
        self.ledger = Path(os.environ[LEDGER]).open("a", buffering=1) if LEDGER in os.environ else None  # noqa: SIM115
        self.dtype = torch.float32

    def forward(self, x: Pair, t: Pair, *_: object) -> Pair:
        began, clips = time.time(), next(len(value) for value in x if value is not None)
        time.sleep(self.call + self.clip * clips)
        if self.ledger is not None:
            self.ledger.write(f"{time.time()} {time.time() - began} {clips}\n")
        return x.map(lambda value: 0.1 * value)


class TimedPipeline(Pipeline):
    """A pipeline whose programs raise for seeds of at least BROKEN."""

    def program(
        self,
        request: ClipRequest,
        on_progress: Callable[[StepProgress], None] = lambda _: None,
        on_part: Callable[[ClipPart], None] | None = None,
    ) -> Program:
        program = super().program(request, on_progress, on_part)
        if request.params.seed < BROKEN:
            return (yield from program)
        asked = next(program)
        for _ in range(3):
            asked = program.send((yield asked))
        raise RuntimeError("this job raises because of its seed")


def timed_manifest() -> Manifest:
    """The demo model without super-resolution."""
    demo = find_models(None)["demo"]
    return replace(demo, config=replace(demo.config, sr=None), sr_weights=None)


def timed_pipeline(sizes: tuple[int, ...] | None = None) -> Pipeline:
    """A pipeline with the timing from the environment."""
    manifest = timed_manifest()
    network = TimedNetwork(float(os.environ.get(CALL, "0.02")), float(os.environ.get(CLIP, "0.005")))
    schedule = NoiseSchedule.from_config(manifest.config.schedule)
    batch_sizes = BatchSizes(sizes or SIZES, {size: network.call + network.clip * size for size in sizes or SIZES})
    return TimedPipeline(manifest, Evaluator(network, None, schedule, batch_sizes=batch_sizes), torch.device("cpu"))  # type: ignore[arg-type]


def load(settings: Settings) -> ModelMaker:
    """A worker's ModelMaker with these networks."""
    keep_freed_memory()
    torch.set_num_threads(1)  # the networks compute nothing
    warm()
    return ModelMaker({"demo": timed_pipeline(settings.batch_sizes)}, exit_device_lost)


if __name__ == "__main__":
    if sys.argv[1:] == ["worker"]:
        raise SystemExit(run(load_settings(), load))
    serve(load_settings(), worker=("-m", "benchmarks.timed", "worker"))
