"""Parts of benchmarks.gpu: the device, and the networks on it.

Networks have random weights and random inputs: a matrix product of zeros takes less power, and can run faster.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.forward import draw_weights, operations, peak_resident, plain, seconds
from benchmarks.gpu_profile import profile
from benchmarks.gpu_run import Run
from benchmarks.report import surroundings
from model.checkpoint.loading import build, save_model
from model.checkpoint.manifest import FILE_NAME, Manifest, read_manifest
from model.networks.config import PRESETS
from model.networks.coupled_unet import CoupledUNet
from model.networks.super_resolution import SRUNet
from model.runtime.allocator import keep_freed_memory
from model.runtime.batch_sizes import BatchSizes
from model.runtime.evaluator import Request
from model.runtime.pipeline import Pipeline
from model.runtime.warmup import typical_clips, typical_frames, warm_up
from model.sampling.samplers import Evaluate, EvaluateFrames

BATCHES, CPU_BATCHES = (1, 8, 16), (1, 2)
FRAMES, CPU_FRAMES = (16, 64), (8,)
REPEATS = 10
SHARE_OF_A_ROW = 0.04
"""Of a part's time, for the calls that are measured for one figure."""

Found = Iterator[dict[str, Any]]


def device(run: Run) -> Found:
    """The device, and its ceilings: a copy within its memory, counting bytes read and written, and a large matrix
    product in bfloat16."""
    yield surroundings()
    if run.on_gpu:
        found = torch.cuda.get_device_properties(run.device)
        yield {
            "name": found.name,
            "memory_gib": round(found.total_memory / 2**30, 1),
            "multiprocessors": found.multi_processor_count,
            "cuda": torch.version.cuda,
        }
    size, side = (2**31, 8192) if run.on_gpu else (2**24, 256)
    a, b = torch.randint(256, (2, size), dtype=torch.uint8, device=run.device)
    taken = _median(partial(b.copy_, a), run)
    yield {"copy_gb_per_s": round(2 * size / taken / 1e9, 1)}
    a, b = torch.randn(2, side, side, device=run.device, dtype=torch.bfloat16)
    taken = _median(partial(torch.matmul, a, b), run)
    yield {"matrix_product_side": side, "matrix_product_tflop_per_s": round(2 * side**3 / taken / 1e12, 4)}


def base(run: Run) -> Found:
    """The base network by batch size: eagerly, as the worker runs it after its warm-up, and the plain network."""
    pipeline = _pipeline(run, only_base=True)
    config = pipeline.manifest.config
    batches = BATCHES if run.on_gpu else CPU_BATCHES
    flop = operations(config, 1)
    yield {"tflop_per_clip": flop / 1e12, "dtype": str(pipeline.evaluator.dtype)}
    rows: dict[str, Any] = {}
    for kind in ("eager", "worker"):
        if kind == "worker":
            _warm_up(pipeline, batches)
        for batch in batches:
            pipeline.evaluator.use_batch_sizes(BatchSizes((batch,)))
            rows[f"{kind} {batch}"] = _measured(run, pipeline, _clips(pipeline, batch), batch * flop)
            yield {"rows": rows, **_graphs(pipeline)}
    del pipeline
    _empty(run)
    dtype = torch.float16 if run.on_gpu else torch.float32
    for batch in batches:
        _empty(run)
        with torch.inference_mode():
            forward = plain(config, run.device, dtype, batch)
            rows[f"plain {batch}"] = _row(run, forward, batch * flop)
        yield {"rows": rows}


def sr(run: Run) -> Found:
    """Super-resolution by number of frames, eagerly and as the worker runs it."""
    pipeline = _pipeline(run)
    config = pipeline.manifest.config
    assert config.sr is not None
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        frames = torch.empty(1, 3, *config.output_size)
        SRUNet(config.sr)(frames, frames, torch.empty(1))
    flop = counter.get_total_flops()
    yield {"tflop_per_frame": flop / 1e12, "dtype": str(pipeline.evaluator.dtype)}
    rows: dict[str, Any] = {}
    for kind in ("eager", "worker"):
        if kind == "worker":
            _warm_up(pipeline, (1,))
        for count in FRAMES if run.on_gpu else CPU_FRAMES:
            pipeline.evaluator.frames_per_forward = count
            rows[f"{kind} {count}"] = _measured(run, pipeline, [_frames(pipeline, count)], count * flop)
            yield {"rows": rows, **_graphs(pipeline)}


def kernels(run: Run) -> Found:
    """Where the time goes: the kernels that take the most of it, of the base network at batch 8 and super-resolution of
    one clip, both eager."""
    pipeline = _pipeline(run)
    clip, batch = pipeline.manifest.config.clip.frames, 8 if run.on_gpu else 1
    pipeline.evaluator.use_batch_sizes(BatchSizes((batch,)))
    pipeline.evaluator.frames_per_forward = clip
    yield {f"base batch {batch}": profile(run, partial(pipeline.evaluator, _clips(pipeline, batch)))}
    yield {f"sr {clip} frames": profile(run, partial(pipeline.evaluator, [_frames(pipeline, clip)]))}


def norms(run: Run) -> Found:
    """The fused norm beside a copy: `python -m benchmarks.norms`."""
    if not run.on_gpu:
        yield {"skipped": "it needs a GPU"}
        return
    from benchmarks import norms

    for report in norms.reports(norms.BATCHES, norms.REPEATS):
        yield {"measured": report}


def warmup(run: Run) -> Found:
    """Time and memory of a worker's start: loading from disk, and its warm-up with all batch sizes."""
    write_model(run)
    began = time.perf_counter()
    pipeline = _pipeline(run)
    loaded = time.perf_counter()
    yield {"load_s": round(loaded - began, 2), "weights_gib": _gib(_memory(run))}
    _warm_up(pipeline, None)
    sizes = pipeline.evaluator.batch_sizes
    assert sizes is not None
    yield {
        "warm_up_s": round(time.perf_counter() - loaded, 2),
        "warm_gib": _gib(_memory(run)),
        "batch_sizes": list(sizes.sizes),
        "frames_per_forward": pipeline.evaluator.frames_per_forward,
        **_graphs(pipeline),
    }


def write_model(run: Run) -> Manifest:
    """A model with random weights in the folder of the run, written by the first part that needs it."""
    folder = run.folder / "models" / "benchmark"
    if not (folder / FILE_NAME).exists():
        config = PRESETS[run.preset]
        assert config.sr is not None
        manifest = Manifest(
            "benchmark", config, False, "random weights", "MIT", "base.safetensors", "sr.safetensors", folder=folder
        )
        networks = build(CoupledUNet, config.base).to(run.device), build(SRUNet, config.sr).to(run.device)
        for network in networks:
            draw_weights(network)
            network.cpu()
        save_model(manifest, *networks)
    return read_manifest(folder / FILE_NAME)


def _pipeline(run: Run, only_base: bool = False) -> Pipeline:
    manifest = write_model(run)
    if only_base:
        manifest = replace(manifest, config=replace(manifest.config, sr=None), sr_weights=None)
    return Pipeline.load(manifest, run.device, "auto" if run.on_gpu else "float32")


def _warm_up(pipeline: Pipeline, sizes: Sequence[int] | None) -> None:
    keep_freed_memory()
    warm_up(pipeline, sizes)


def _graphs(pipeline: Pipeline) -> dict[str, Any]:
    """The sizes that have a CUDA graph, by network."""
    return {"graphs": {name: graphs.sizes for name, graphs in pipeline.evaluator.graphs.items()}}


def _clips(pipeline: Pipeline, count: int) -> list[Request]:
    requests = [request for request in typical_clips(pipeline, count) if isinstance(request, Evaluate)]
    return [replace(request, x=request.x.map(torch.randn_like)) for request in requests]


def _frames(pipeline: Pipeline, count: int) -> Request:
    request = typical_frames(pipeline, count)
    assert isinstance(request, EvaluateFrames)
    return replace(request, x=torch.randn_like(request.x), low_res=torch.randn_like(request.low_res))


def _measured(run: Run, pipeline: Pipeline, requests: list[Request], flop: float) -> dict[str, Any]:
    _empty(run)
    return _row(run, lambda: pipeline.evaluator(requests), flop)


def _row(run: Run, forward: Callable[[], object], flop: float) -> dict[str, Any]:
    """Median milliseconds of a forward of `flop` operations, its rate, and the memory at its peak: on a CPU that of the
    process so far."""
    taken = _median(forward, run)
    row = {"ms": round(1000 * taken, 2), "tflop_per_s": round(flop / taken / 1e12, 4), "peak_gib": _gib(_peak(run))}
    if run.ceiling:
        row["share"] = round(flop / taken / run.ceiling, 4)
    return row


def _median(action: Callable[[], object], run: Run) -> float:
    """Median seconds, after two calls to warm up (on a CPU one). Few calls where they are slow."""
    for _ in range(2 if run.on_gpu else 1):
        once = seconds(action, run.device)
    fit = int(run.seconds * SHARE_OF_A_ROW / once)
    repeats = max(2, min(REPEATS, fit)) if run.on_gpu else 1
    return statistics.median(seconds(action, run.device) for _ in range(repeats))


def _empty(run: Run) -> None:
    if run.on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(run.device)


def _peak(run: Run) -> int:
    """Bytes. Those reserved, because CUDA graphs keep memory that no tensor holds."""
    return torch.cuda.max_memory_reserved(run.device) if run.on_gpu else peak_resident()


def _memory(run: Run) -> int:
    """Bytes in use now, on a CPU at the peak."""
    return torch.cuda.memory_reserved(run.device) if run.on_gpu else peak_resident()


def _gib(count: int) -> float:
    return round(count / 2**30, 2)
