"""1×1 convolutions on a CPU: nn.Linear's matrix product beside oneDNN's convolution. Prints JSON.

    python -m benchmarks.point_conv [--model examples/models/scenes] [--batch 1]

Every size of PointConv in a forward of the model's base network is timed both ways, in turn, without a gradient. A
ratio is the median of (convolution / product) over the repetitions: above 1 the product is faster. `all` weighs the
sizes by how often a forward has them. `chosen` is what the networks take on this processor.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.report import surroundings
from model.checkpoint.loading import build
from model.checkpoint.manifest import FILE_NAME, read_manifest
from model.networks.config import ModelConfig
from model.networks.coupled_unet import CoupledUNet
from model.networks.layers import PointConv, has_avx512
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
    with torch.inference_mode():
        found = sizes(manifest.config, arguments.batch)
        rows = [{**measured(size, arguments.repeats), "calls": calls} for size, calls in found.items()]
    product, convolution = (sum(row["calls"] * row[name] for row in rows) for name in ("product_ms", "convolution_ms"))
    report = {
        **surroundings(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "chosen": "convolution" if has_avx512() else "product",
        "model": manifest.name,
        "batch": arguments.batch,
        "all": round(convolution / product, 3),
        "sizes": rows,
    }
    print(json.dumps(report, indent=2))


def sizes(config: ModelConfig, batch: int) -> Counter[Size]:
    """How often a forward of the base network for `batch` clips has a PointConv of each size."""
    network, clip = build(CoupledUNet, config.base).eval(), config.clip
    counts: Counter[Size] = Counter()

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        assert isinstance(layer, PointConv)
        counts[inputs[0].numel() // layer.in_features, layer.in_features, layer.out_features] += 1

    for layer in network.modules():
        if isinstance(layer, PointConv):
            layer.register_forward_hook(count)
    video = torch.zeros(batch, clip.frames, 3, clip.height, clip.width)
    network(Pair(video, torch.zeros(batch, 1, clip.samples)), Pair(torch.zeros(batch), torch.zeros(batch)))
    return counts


def measured(size: Size, repeats: int) -> dict[str, Any]:
    """Milliseconds of both ways, and the median of their ratios."""
    tokens, channels_in, channels_out = size
    layer = PointConv(channels_in, channels_out)
    x = torch.randn(1, tokens, channels_in, generator=torch.Generator().manual_seed(0))
    ways = {"product": lambda: nn.Linear.forward(layer, x), "convolution": lambda: layer.by_convolution(x)}
    assert torch.allclose(*(way() for way in ways.values()), atol=1e-4)
    rounds = [{name: seconds(way) for name, way in ways.items()} for _ in range(repeats)]
    return {
        "tokens": tokens,
        "in": channels_in,
        "out": channels_out,
        **{f"{name}_ms": round(1000 * statistics.median(each[name] for each in rounds), 3) for name in ways},
        "ratio": round(statistics.median(each["convolution"] / each["product"] for each in rounds), 3),
    }


def seconds(way: Callable[[], Tensor], calls: int = 10) -> float:
    """Of one of `calls`, after one that is not timed."""
    way()
    began = time.perf_counter()
    for _ in range(calls):
        way()
    return (time.perf_counter() - began) / calls


if __name__ == "__main__":
    main()
