"""1×1 convolutions on a CPU: nn.Linear's matrix product beside oneDNN's convolution. Prints JSON.

    python -m benchmarks.point_conv [--model examples/models/scenes] [--batch 1]

A forward of the model's base network without a prompt, and every size of PointConv that it calls, are timed both ways,
in turn, in float32 without a gradient. A ratio is the median of (convolution / product) over the repetitions: above 1
the product is faster. `layers` weighs the sizes by how often a forward has them. `chosen` is what the networks take on
this processor.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.report import surroundings
from model.checkpoint.loading import build
from model.checkpoint.manifest import FILE_NAME, read_manifest
from model.networks import layers
from model.networks.config import ClipSpec
from model.networks.coupled_unet import CoupledUNet
from model.networks.layers import PointConv
from model.networks.pair import Pair

Size = tuple[int, int, int]
"""Tokens, channels in and channels out."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("examples/models/scenes"), help="a model's folder")
    parser.add_argument("--batch", type=int, default=1, help="clips in a forward (default 1)")
    parser.add_argument("--repeats", type=int, default=30, help="repetitions of each size (default 30)")
    arguments = parser.parse_args()
    manifest = read_manifest(arguments.model / FILE_NAME)
    network = build(CoupledUNet, manifest.config.base).eval()
    clips = inputs(manifest.config.clip, arguments.batch)
    with torch.inference_mode():
        forward = compared(partial(network, *clips), arguments.repeats, calls=1)
        rows = [{**measured(size, arguments.repeats), "calls": calls} for size, calls in sizes(network, clips).items()]
    product, convolution = (sum(row["calls"] * row[name] for row in rows) for name in ("product_ms", "convolution_ms"))
    report = {
        **surroundings(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "chosen": "convolution" if layers.has_avx512() else "product",
        "model": manifest.name,
        "batch": arguments.batch,
        "forward": forward,
        "layers": round(convolution / product, 3),
        "sizes": rows,
    }
    print(json.dumps(report, indent=2))


def inputs(clip: ClipSpec, batch: int) -> tuple[Pair, Pair]:
    """Latents and times of `batch` clips."""
    video = torch.zeros(batch, clip.frames, 3, clip.height, clip.width)
    return Pair(video, torch.zeros(batch, 1, clip.samples)), Pair(torch.zeros(batch), torch.zeros(batch))


def sizes(network: CoupledUNet, clips: tuple[Pair, Pair]) -> Counter[Size]:
    """How often a forward of the network calls a PointConv of each size."""
    counts: Counter[Size] = Counter()

    def count(layer: nn.Module, given: tuple[Tensor, ...], _: Tensor) -> None:
        assert isinstance(layer, PointConv)
        counts[given[0].numel() // layer.in_features, layer.in_features, layer.out_features] += 1

    hooks = [each.register_forward_hook(count) for each in network.modules() if isinstance(each, PointConv)]
    network(*clips)
    for hook in hooks:
        hook.remove()
    return counts


def measured(size: Size, repeats: int) -> dict[str, Any]:
    """A layer of this size, both ways."""
    tokens, channels_in, channels_out = size
    layer = PointConv(channels_in, channels_out)
    x = torch.randn(1, tokens, channels_in, generator=torch.Generator().manual_seed(0))
    return {"tokens": tokens, "in": channels_in, "out": channels_out, **compared(partial(layer, x), repeats)}


def compared(run: Callable[[], object], repeats: int, calls: int = 10) -> dict[str, float]:
    """Milliseconds of `run` with its layers as products and as convolutions, and the median of their ratios."""
    rounds: list[dict[str, float]] = []
    with ExitStack() as stack:
        chosen = layers.has_avx512
        stack.callback(setattr, layers, "has_avx512", chosen)
        for _ in range(repeats):
            rounds.append({})
            for way in ("product", "convolution"):
                layers.has_avx512 = partial(bool, way == "convolution")  # type: ignore[assignment]
                rounds[-1][way] = seconds(run, calls)
    return {
        **{f"{way}_ms": round(1000 * statistics.median(each[way] for each in rounds), 3) for way in rounds[0]},
        "ratio": round(statistics.median(each["convolution"] / each["product"] for each in rounds), 3),
    }


def seconds(run: Callable[[], object], calls: int) -> float:
    """Mean of a call of `run`, after one that is not timed."""
    run()
    began = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - began) / calls


if __name__ == "__main__":
    main()
