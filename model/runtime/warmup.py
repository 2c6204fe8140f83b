"""Warm-up before the first job: choose batch sizes that fit into memory, and run the networks once.

On a GPU every batch size is captured as a CUDA graph, so that nothing is compiled or captured while a job waits, and
run. The times are kept: they decide when padding pays. On a CPU one forward is run, and its growth in memory is
measured.
"""

from __future__ import annotations

import logging
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import torch

from model.runtime.allocator import release_freed_memory
from model.runtime.batch_sizes import SIZES, SIZES_CPU, BatchSizes
from model.runtime.cuda_graphs import CudaRecorder
from model.runtime.evaluator import Request
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

_T = TypeVar("_T")


class Run(Protocol):
    """Performs an action where the device may be used, and returns its result."""

    def __call__(self, action: Callable[[], _T], /) -> _T: ...


def _directly(action: Callable[[], _T]) -> _T:
    return action()


def warm_up(pipeline: Pipeline, sizes: Sequence[int] | None = None, run: Run = _directly) -> int:
    """Set the evaluator's batch sizes and run each network at least once. Returns the bytes of memory that the largest
    batch needs beside the weights.

    `sizes` that fit are used as given; by default the device decides. `run` performs each use of the device, one after
    the other: an engine that has work for other models does this between its ticks (`Engine.between_ticks`). Raises the
    error of a single clip.
    """
    if pipeline.device.type == "cpu":
        return _warm_up_cpu(pipeline, sizes, run)
    return _warm_up_gpu(pipeline, sizes or SIZES, run)


def _warm_up_cpu(pipeline: Pipeline, sizes: Sequence[int] | None, run: Run) -> int:
    evaluator = pipeline.evaluator
    smallest = min(sizes) if sizes else 1
    free = _free_memory()
    each = run(lambda: _memory_growth(lambda: _run_once(pipeline, smallest))) / smallest
    if sizes is None:
        sizes = [size for size in SIZES_CPU if size == 1 or size * each <= SHARE * free]
    evaluator.use_batch_sizes(BatchSizes(sizes))
    return max(0, int(each * max(sizes)))


def _run_once(pipeline: Pipeline, clips: int) -> None:
    evaluator = pipeline.evaluator
    evaluator(typical_clips(pipeline, clips))
    if evaluator.sr is not None:
        # One clip at a time: more would gain nothing, and frames then do not depend on other clips.
        evaluator.frames_per_forward = pipeline.manifest.config.clip.frames
        evaluator([typical_frames(pipeline, evaluator.frames_per_forward)])


def _warm_up_gpu(pipeline: Pipeline, sizes: Sequence[int], run: Run) -> int:
    evaluator, clip = pipeline.evaluator, pipeline.manifest.config.clip.frames
    evaluator.use_batch_sizes(BatchSizes(sizes))
    # With a single batch size, frames too have a single one, so that they do not depend on other clips.
    evaluator.frame_sizes = BatchSizes((FRAMES,) if len(sizes) == 1 else _frame_sizes(clip))
    began, reserved = time.perf_counter(), run(lambda: _prepared(pipeline))
    halvings = None
    while halvings != evaluator.halvings:  # whenever less fits than expected, all graphs are dropped
        halvings = evaluator.halvings.copy()
        clips, frames = _base_seconds(pipeline, run), _sr_seconds(pipeline, run)
    evaluator.use_batch_sizes(BatchSizes(list(clips), clips))
    if frames:
        evaluator.frame_sizes = BatchSizes(list(frames), frames)
    grown = run(lambda: _reserved(pipeline.device)) - reserved
    graphs = evaluator.graphs
    _log.info(
        "%d CUDA graphs: clips %s, frames %s; captured in %.1f s, %.1f GiB",
        sum(len(each) for each in graphs.values()),
        graphs["base"].sizes,
        graphs["sr"].sizes,
        time.perf_counter() - began,
        grown / 2**30,
    )
    return max(0, grown)


def _prepared(pipeline: Pipeline) -> int:
    """Use CUDA graphs where the device has them; return `_reserved`."""
    if pipeline.device.type == "cuda":
        torch.cuda.set_device(pipeline.device)
        pipeline.evaluator.use_graphs(CudaRecorder(pipeline.device))
    return _reserved(pipeline.device)


def _frame_sizes(clip: int) -> list[int]:
    """FRAMES and its halves down to a clip of so many frames, and this."""
    halves = [FRAMES // 2**halvings for halvings in range(FRAMES.bit_length())]
    return sorted({min(clip, FRAMES), FRAMES, *(frames for frames in halves if frames >= clip)})


def _base_seconds(pipeline: Pipeline, run: Run) -> dict[int, float]:
    """Seconds by batch size. Large ones come first, so that the others use their memory."""
    sizes = pipeline.evaluator.batch_sizes
    assert sizes is not None
    seconds: dict[int, float] = {}
    for size in reversed(sizes.sizes):
        if size in sizes.sizes:  # none of the larger ones has run out of memory
            seconds[size] = run(partial(_timed, pipeline, typical_clips(pipeline, size)))
            for variant in _variants(pipeline, size):
                run(partial(pipeline.evaluator, variant))
    return {size: taken for size, taken in seconds.items() if size in sizes.sizes}


def _sr_seconds(pipeline: Pipeline, run: Run) -> dict[int, float]:
    """Seconds by number of frames, empty without super-resolution."""
    if pipeline.evaluator.sr is None:
        return {}
    sizes = pipeline.evaluator.frame_sizes
    seconds = {size: run(partial(_timed, pipeline, [typical_frames(pipeline, size)])) for size in reversed(sizes.sizes)}
    return {size: taken for size, taken in seconds.items() if size in sizes.sizes}


def _timed(pipeline: Pipeline, requests: list[Request]) -> float:
    """Seconds of the second of two runs: the first captures a graph."""
    seconds = 0.0
    for _ in range(2):
        _synchronise(pipeline.device)
        began = time.perf_counter()
        pipeline.evaluator(requests)
        _synchronise(pipeline.device)
        seconds = time.perf_counter() - began
    return seconds


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reserved(device: torch.device) -> int:
    """Bytes of the device that this process holds, without those that are only cached."""
    if device.type != "cuda":
        return 0
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved(device)


def _variants(pipeline: Pipeline, count: int) -> Iterator[list[Request]]:
    """The typical requests in each other form that jobs have: without RS-MMA."""
    clips = [request for request in typical_clips(pipeline, count) if isinstance(request, Evaluate)]
    if pipeline.manifest.config.base.coupled:
        yield [replace(request, coupled=False) for request in clips]


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
