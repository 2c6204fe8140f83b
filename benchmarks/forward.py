"""`python -m benchmarks.forward`: the coupled network against a plain one with the same weights; prints JSON.

Both alternate in one process, so that other load on the machine affects both; a ratio is the median of (plain / ours)
over the repetitions. Ours runs as in the worker, with `keep_freed_memory`; the plain one as in a script. Peak memory is
measured in a separate process for each, which holds the weights and does two forwards. On a GPU the plain one runs in
float16, as published, and ours replays a CUDA graph, as in the worker.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.plain_network import PlainCoupledUNet
from benchmarks.report import processor
from model.checkpoint.loading import build, to_published
from model.networks.config import PRESETS, ModelConfig
from model.networks.coupled_unet import CoupledUNet
from model.networks.pair import Pair
from model.runtime.allocator import keep_freed_memory
from model.runtime.cuda_graphs import CudaRecorder, Graphs

H200_BF16 = 790e12
"""Achievable operations per second in bfloat16."""


def drawn_network(config: ModelConfig, device: str) -> CoupledUNet:
    """The base network with the weights of `draw_weights`."""
    network = build(CoupledUNet, config.base).requires_grad_(False).to(device)
    draw_weights(network)
    return network


def draw_weights(network: nn.Module) -> None:
    """Random weights, drawn on their device, scaled to keep activations near one; the same each time."""
    generator = torch.Generator(next(network.parameters()).device).manual_seed(0)
    for parameter in network.parameters():
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 100
        parameter.data.normal_(std=fan_in**-0.5, generator=generator)


def ours(config: ModelConfig, device: str, dtype: torch.dtype, batch: int) -> Callable[[], Pair]:
    network = drawn_network(config, device).to_compute(dtype)
    graphs = Graphs("base", lambda video, audio, t, shifts: network(Pair(video, audio), Pair(t, t), shifts))
    if device == "cuda":
        graphs.use(CudaRecorder(torch.device(device)))
    x, t = inputs(config, device, batch)
    shifts = torch.zeros(batch, len(config.base.block_windows), dtype=torch.long, device=device)
    return lambda: Pair(*graphs(video=x.video, audio=x.audio, t=t, shifts=shifts))


def plain(config: ModelConfig, device: str, dtype: torch.dtype, batch: int) -> Callable[[], Pair]:
    def stays(name: str) -> bool:
        return any(part in name for part in ("Norm", "emb"))

    weights = to_published(drawn_network(config, device))
    network = PlainCoupledUNet(config.base, {k: w if stays(k) else w.to(dtype) for k, w in weights.items()})
    x, t = inputs(config, device, batch)
    x, shifts = x.map(lambda value: value.to(dtype)), [0] * len(config.base.block_windows)
    return lambda: network(x, t, shifts)


def inputs(config: ModelConfig, device: str, batch: int) -> tuple[Pair, Tensor]:
    generator = torch.Generator().manual_seed(1)
    video = torch.randn(batch, *config.clip.video_shape, generator=generator)
    audio = torch.randn(batch, *config.clip.audio_shape, generator=generator)
    return Pair(video.to(device), audio.to(device)), torch.full((batch,), 500, device=device)


def seconds(run: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    run()
    if device != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start


def difference(a: Pair, b: Pair) -> float:
    """Relative L2 distance, the larger of the two modalities."""
    return max(
        ((x.float() - y.float()).norm() / y.float().norm()).item()
        for x, y in zip(a, b, strict=True)
        if x is not None and y is not None
    )


def operations(config: ModelConfig, batch: int) -> int:
    """Floating point operations of the plain network, counted on the meta device."""
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        PlainCoupledUNet(config.base, to_published(CoupledUNet(config.base)))(
            Pair(torch.empty(batch, *config.clip.video_shape), torch.empty(batch, *config.clip.audio_shape)),
            torch.empty(batch),
            [0] * len(config.base.block_windows),
        )
    return counter.get_total_flops()


def peak_bytes(name: str, options: argparse.Namespace) -> tuple[int, int]:
    """Memory of a process that only does two forwards of `name`: after importing torch, and at its peak."""
    arguments = [f"--preset={options.preset}", f"--device={options.device}", f"--batch={options.batch}"]
    command = [sys.executable, "-m", "benchmarks.forward", *arguments, f"--memory={name}"]
    libraries, peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return int(libraries), int(peak)


def measure_memory(name: str, options: argparse.Namespace) -> str:
    libraries = peak_resident() if options.device == "cpu" else 0
    config, dtype = PRESETS[options.preset], getattr(torch, name.rpartition(" ")[2])
    if name.startswith("plain"):
        run = plain(config, options.device, dtype, options.batch)
    else:
        keep_freed_memory()
        run = ours(config, options.device, dtype, options.batch)
    run()
    run()
    return f"{libraries} {peak_resident() if options.device == 'cpu' else torch.cuda.max_memory_allocated()}"


def peak_resident() -> int:
    """Bytes. VmHWM on Linux, because ru_maxrss is inherited from the parent process."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if "VmHWM" in line)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(options: argparse.Namespace) -> dict[str, object]:
    config, device, batch = PRESETS[options.preset], options.device, options.batch
    baseline = f"plain {'float32' if device == 'cpu' else 'float16'}"
    dtypes = ("float32", "bfloat16") if device == "cpu" else ("float16", "bfloat16")
    runs = {baseline: plain(config, device, getattr(torch, baseline.split()[1]), batch)}
    for dtype in dtypes:
        runs[f"ours {dtype}"] = ours(config, device, getattr(torch, dtype), batch)

    keep_freed_memory(False)
    expected = runs[baseline]()
    differences = {name: difference(run(), expected) for name, run in runs.items()}  # also warms up
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.repeats):
        for name, run in runs.items():
            keep_freed_memory(name.startswith("ours"))
            times[name].append(seconds(run, device))

    flops = operations(config, batch)
    memory = {name: peak_bytes(name, options) for name in runs}
    beyond = {name: peak - libraries for name, (libraries, peak) in memory.items()}
    results = {}
    for name in runs:
        typical = statistics.median(times[name])
        ratios = [a / b for a, b in zip(times[baseline], times[name], strict=True)]
        results[name] = {
            "seconds": round(typical, 4),
            "fastest_seconds": round(min(times[name]), 4),
            "speedup": round(statistics.median(ratios), 2),
            "gflop_per_s": round(flops / typical / 1e9, 1),
            "peak_mib": round(memory[name][1] / 2**20),
            "peak_share": round(memory[name][1] / memory[baseline][1], 3),
            "libraries_mib": round(memory[name][0] / 2**20),
            "peak_share_beyond_libraries": round(beyond[name] / beyond[baseline], 3),
            "difference": float(f"{differences[name]:.1e}"),
        }
        if device != "cpu":
            results[name]["share_of_790_tflop_per_s"] = round(flops / typical / H200_BF16, 3)
    return {
        "preset": options.preset,
        "batch": batch,
        "device": device,
        "processor": torch.cuda.get_device_name() if device == "cuda" else f"{processor()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "repeats": options.repeats,
        "tflop": round(flops / 1e12, 4),
        "results": results,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forward", description=__doc__)
    parser.add_argument("--preset", choices=("paper", "demo"), default="paper")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--memory", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    with torch.inference_mode():
        result = measure_memory(options.memory, options) if options.memory else json.dumps(measure(options), indent=2)
    sys.stdout.write(f"{result}\n")


if __name__ == "__main__":
    main()
