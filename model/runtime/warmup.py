"""Warm-up before the first job: choose batch sizes that fit into memory, and run the networks once.

On a GPU every batch size is run, so that nothing is compiled or tuned while a job waits. The times are kept: they
decide when padding pays. On a CPU nothing is compiled; one forward is run, and its growth in memory is measured.
"""

from __future__ import annotations

import logging
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from model.networks.config import MODALITIES
from model.runtime.allocator import release_freed_memory
from model.runtime.batch_sizes import SIZES, SIZES_CPU, BatchSizes
from model.runtime.evaluator import Request, is_out_of_memory
from model.runtime.pipeline import Pipeline
from model.sampling.latents import Latents
from model.sampling.samplers import Evaluate, EvaluateFrames

SHARE = 0.5
"""The share of free memory that a batch on a CPU may take; the rest is for other processes."""

SAMPLE_SECONDS = 0.002
"""Between two looks at the memory of a forward on a CPU."""

FRAMES = 64
"""Frames of super-resolution in one forward on a GPU, four clips; half of it and so on where they do not fit."""

_log = logging.getLogger(__name__)


def warm_up(pipeline: Pipeline, sizes: Sequence[int] | None = None) -> None:
    """Set the evaluator's batch sizes and run each network at least once.

    `sizes` that fit are used as given; by default the device decides. Raises the error of a single clip.
    """
    if pipeline.device.type == "cpu":
        _warm_up_cpu(pipeline, sizes)
    else:
        _warm_up_gpu(pipeline, sizes or SIZES)


def _warm_up_cpu(pipeline: Pipeline, sizes: Sequence[int] | None) -> None:
    evaluator = pipeline.evaluator
    smallest = min(sizes) if sizes else 1
    free = _free_memory()
    each = _memory_growth(lambda: _run_once(pipeline, smallest)) / smallest
    if sizes is None:
        sizes = [size for size in SIZES_CPU if size == 1 or size * each <= SHARE * free]
    evaluator.use_batch_sizes(BatchSizes(sizes))


def _run_once(pipeline: Pipeline, clips: int) -> None:
    evaluator = pipeline.evaluator
    evaluator(typical_clips(pipeline, clips))
    if evaluator.sr is not None:
        # One clip at a time: more would gain nothing, and frames then do not depend on other clips.
        evaluator.frames_per_forward = pipeline.manifest.config.clip.frames
        evaluator([typical_frames(pipeline, evaluator.frames_per_forward)])


def _warm_up_gpu(pipeline: Pipeline, sizes: Sequence[int]) -> None:
    evaluator = pipeline.evaluator
    torch.cuda.set_device(pipeline.device)
    seconds: dict[int, float] = {}
    for size in sorted(sizes):
        try:
            seconds[size] = _timed(pipeline, typical_clips(pipeline, size))
            if evaluator.compiled:
                for variant in _variants(pipeline, size):
                    _timed(pipeline, variant)
        except Exception as error:
            if not is_out_of_memory(error) or not seconds:
                raise
            _log.warning("batches of %d clips and more do not fit the device", size)
            torch.cuda.empty_cache()
            break
    evaluator.use_batch_sizes(BatchSizes(list(seconds), seconds))
    if evaluator.sr is None:
        return
    evaluator.frames_per_forward = FRAMES  # it halves by itself what does not fit
    clip = pipeline.manifest.config.clip.frames
    for frames in range(FRAMES, 0, -clip):
        if frames <= evaluator.frames_per_forward:
            _timed(pipeline, [typical_frames(pipeline, frames)])


def _timed(pipeline: Pipeline, requests: list[Request]) -> float:
    """Seconds of the second of two runs: the first compiles."""
    seconds = 0.0
    for _ in range(2):
        torch.cuda.synchronize()
        began = time.perf_counter()
        pipeline.evaluator(requests)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    return seconds


def _variants(pipeline: Pipeline, count: int) -> Iterator[list[Request]]:
    """The typical requests without RS-MMA, and with a gradient for each modality and for both: each is a separate
    graph."""
    clips = [request for request in typical_clips(pipeline, count) if isinstance(request, Evaluate)]
    if not pipeline.manifest.config.base.coupled:
        return
    yield [replace(request, coupled=False) for request in clips]
    for wrt in (*((name,) for name in MODALITIES), MODALITIES):
        yield [replace(request, wrt=wrt, objective=_sum) for request in clips]


def _sum(eps: Latents) -> Tensor:
    return eps["video"].sum() + eps["audio"].sum()


def typical_clips(pipeline: Pipeline, count: int) -> list[Request]:
    """The base network requests of `count` jobs."""
    config, device = pipeline.manifest.config, pipeline.device
    shifts = torch.zeros(1, len(config.base.max_shifts(config.clip.frames)), dtype=torch.long)
    latents = Latents(
        torch.zeros(1, *config.clip.video_shape, device=device) if "video" in config.base.modalities else None,
        torch.zeros(1, *config.clip.audio_shape, device=device) if "audio" in config.base.modalities else None,
    )
    return [Evaluate(latents, t=500.0, s=400.0, shifts=shifts) for _ in range(count)]


def typical_frames(pipeline: Pipeline, count: int) -> Request:
    height, width = pipeline.manifest.config.output_size
    frames = torch.zeros(count, 3, height, width, device=pipeline.device)
    return EvaluateFrames(frames, frames, 500.0)


def _memory_growth(run: Callable[[], None]) -> int:
    """The most bytes by which the resident memory of this process exceeds its present size while `run` runs.

    Sampled: the peak that the system keeps is that of the whole life of the process, of every model it has run. Memory
    that earlier models have freed is returned first, or `run` would seem to need less than it does.
    """
    release_freed_memory()
    before = peak = _resident_memory()
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(SAMPLE_SECONDS):
            peak = max(peak, _resident_memory())

    thread = threading.Thread(target=watch, name="memory growth", daemon=True)
    thread.start()
    try:
        run()
    finally:
        ended.set()
        thread.join()
    return max(peak, _resident_memory()) - before


def _resident_memory() -> int:
    """Bytes that this process has resident now; its peak where the system does not say."""
    for line in _lines(Path("/proc/self/statm")):
        return int(line.split()[1]) * resource.getpagesize()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _free_memory() -> float:
    """Bytes available without swapping; infinite where the system does not report it."""
    free = float("inf")
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            free = 1024.0 * int(line.split()[1])
    limit, used = _lines(Path("/sys/fs/cgroup/memory.max")), _lines(Path("/sys/fs/cgroup/memory.current"))
    if limit and used and limit[0].isdigit():
        free = min(free, float(int(limit[0]) - int(used[0])))
    return free


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
