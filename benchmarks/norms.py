"""`python -m benchmarks.norms`: the fused group norm at published shapes; prints JSON.

On a GPU it is compared with a copy; `--device cpu` compares the norm with those of earlier versions (norms_cpu.py).

`gigabytes_per_second` counts what must move: forward two readings and one writing, backward four readings (x and the
gradient, twice) and one writing. `share_of_copy` is that rate over that of a copy of a large tensor. `speedup` is
against PyTorch's own kernels on the same channels-last tensors.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from model.networks.ops.group_norm import _composed, group_norm
from model.networks.ops.group_norm_launch import Shape

BATCHES, REPEATS = (1, 8), 12
COPIED = 2**29
"""Bytes of the tensor that is copied."""


@dataclass(frozen=True)
class Case:
    name: str
    shape: tuple[int, ...]
    """Of one clip, or of 16 frames."""
    skip: int = 0
    modulated: bool = False
    inner: int = 1


CASES = (
    Case("video, scale 1, FiLM", (1, 16 * 64 * 64, 128), modulated=True),
    Case("video, scale 1, skip connection", (1, 16 * 64 * 64, 128), skip=128),
    Case("video, scale 2, FiLM", (1, 16 * 32 * 32, 256), modulated=True),
    Case("video, scale 8, FiLM", (1, 16 * 8 * 8, 512), modulated=True),
    Case("video, frames, scale 2", (16, 32 * 32, 256)),
    Case("video, over frames, scale 2", (1, 16, 32 * 32, 256), inner=32 * 32),
    Case("audio, scale 1, FiLM", (1, 25_600, 128), modulated=True),
    Case("audio, scale 8, FiLM", (1, 400, 512), modulated=True),
    Case("super-resolution, scale 1, FiLM", (16, 256 * 256, 192), modulated=True),
    Case("super-resolution, scale 4, FiLM", (16, 64 * 64, 384), modulated=True),
)


def seconds(run: Callable[[], object], repeats: int) -> float:
    """The median time of a run on the device, in a CUDA graph: without the cost of launches."""
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    graph.replay()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return statistics.median(times)


def measure(case: Case, batch: int, repeats: int, copy_rate: float) -> dict[str, object]:
    shape = (case.shape[0] * batch, *case.shape[1:])
    channels = shape[-1] + case.skip
    x = torch.randn(shape, device="cuda").bfloat16()
    skip = torch.randn(*shape[:-1], case.skip, device="cuda").bfloat16() if case.skip else None
    weight, bias = (1 + 0.3 * torch.randn(channels, device="cuda") for _ in range(2))
    modulation = torch.randn(shape[0], 2 * channels, device="cuda") if case.modulated else None
    silu = case.inner == 1

    def ours(x: Tensor, skip: Tensor | None) -> Tensor:
        return group_norm(x, weight, bias, 32, modulation=modulation, silu=silu, skip=skip, inner=case.inner)

    def plain(x: Tensor, skip: Tensor | None) -> Tensor:
        return _composed(x, skip, weight, bias, modulation, None, 32, 1e-5, silu, case.inner)

    moved = math.prod(shape[:-1]) * channels * x.element_size()
    with torch.inference_mode():
        forward = seconds(lambda: ours(x, skip), repeats)
        other = seconds(lambda: plain(x, skip), repeats)
        exact = plain(x.float(), None if skip is None else skip.float())
        error = ((ours(x, skip).float() - exact).norm() / exact.norm()).item()
    own = Shape(x, skip, None, 32, case.inner)
    return {
        "case": case.name,
        "batch": batch,
        "shape": list(shape),
        "kernels": 1 if own.small else 3,
        "forward_us": round(forward * 1e6, 1),
        "gigabytes_per_second": round(3 * moved / forward / 1e9),
        "share_of_copy": round(3 * moved / forward / copy_rate, 3),
        "speedup": round(other / forward, 2),
        "error": float(f"{error:.1e}"),
        **backward(x, skip, ours, plain, repeats, 5 * moved, copy_rate),
    }


def backward(
    x: Tensor,
    skip: Tensor | None,
    ours: Callable[[Tensor, Tensor | None], Tensor],
    plain: Callable[[Tensor, Tensor | None], Tensor],
    repeats: int,
    moved: int,
    copy_rate: float,
) -> dict[str, object]:
    times, gradients = [], []
    dy: Tensor | None = None
    for norm in (ours, plain):
        variables = [value.detach().requires_grad_() for value in (x, skip) if value is not None]
        y = norm(variables[0], variables[1] if skip is not None else None)
        dy = torch.randn_like(y) if dy is None else dy

        def run(y: Tensor = y, variables: list[Tensor] = variables, dy: Tensor = dy) -> tuple[Tensor, ...]:
            return torch.autograd.grad(y, variables, dy, retain_graph=True)

        times.append(_eager_seconds(run, repeats))
        gradients.append(run()[0].float())
    error = ((gradients[0] - gradients[1]).norm() / gradients[1].norm()).item()
    return {
        "backward_us": round(times[0] * 1e6, 1),
        "backward_gigabytes_per_second": round(moved / times[0] / 1e9),
        "backward_share_of_copy": round(moved / times[0] / copy_rate, 3),
        "backward_speedup": round(times[1] / times[0], 2),
        "backward_difference": float(f"{error:.1e}"),
    }


def _eager_seconds(run: Callable[[], object], repeats: int) -> float:
    """The median time on the device with launches; a backward is not captured here."""
    for _ in range(3):
        run()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return statistics.median(times)


def _copy_seconds(repeats: int) -> float:
    source = torch.randn(COPIED // 4, device="cuda")
    target = F.relu(source)
    return seconds(lambda: target.copy_(source), repeats)


def reports(batches: Sequence[int], repeats: int) -> Iterator[dict[str, Any]]:
    """The report after each case: how the fused kernels do on the current GPU."""
    copy_rate = 2 * COPIED / _copy_seconds(repeats)
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "copy_gigabytes_per_second": round(copy_rate / 1e9),
        "results": [],
    }
    for batch in batches:
        for case in CASES:
            report["results"].append(measure(case, batch, repeats, copy_rate))
            yield report


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.norms", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--batch", type=int, nargs="+", default=list(BATCHES), help="on a GPU (default 1 8)")
    parser.add_argument("--repeats", type=int, default=REPEATS, help=f"default {REPEATS}")
    options = parser.parse_args()
    if options.device == "cpu":
        from benchmarks.norms_cpu import compare

        report = compare(CASES, options.repeats)
    elif torch.cuda.is_available():
        *_, report = reports(options.batch, options.repeats)
    else:
        parser.error("there is no GPU; --device cpu compares norms on the processor")
    sys.stdout.write(f"{json.dumps(report, indent=1)}\n")


if __name__ == "__main__":
    main()
