"""`python -m benchmarks.training_work`: the arithmetic and the memory traffic of one training step; prints JSON.

Counts the operations of forward and backward of the demo model's base network as a GPU runs them, on the meta device,
so without a GPU and in seconds. Every operation counts the bytes of its inputs and outputs once, the norms' as often as
their kernels read them, a fused attention its queries, keys, values and results. Caches make real traffic smaller, and
kernels that read their inputs more than once larger. `bound_ms` is what a device needs at the copy rate and matrix
product rate that `benchmarks.gpu` measured on it. Optimiser, average and data are not counted.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu_service import CONFIGURATION
from benchmarks.gpu_table import FILE
from model.networks import ops
from model.networks.config import TEXT_TOKENS
from model.networks.coupled_unet import CoupledUNet
from model.networks.ops import group_norm
from model.networks.pair import Pair
from model.networks.text import TextTokens
from model.training.configuration import TrainingConfig, read_configuration
from model.training.precision import ComputeIn

UNTOUCHED = ("empty", "new_empty", "empty_like", "_unsafe_view")
"""Operations that move no data, beside those that the dispatcher knows as views."""

READ_TWICE = {"duet::group_norm": 2, "duet::group_norm_backward": 3}
"""The first so many arguments are read twice: once for the statistics."""

LISTED = 12


ATTENTION = "duet_benchmarks::attention"
"""Stands for a fused attention, whose scores stay on the chip. On the meta device an operator needs no kernel."""
torch.library.define(ATTENTION, "(Tensor q, Tensor k, Tensor v, Tensor? mask) -> Tensor")
torch.library.define(f"{ATTENTION}_backward", "(Tensor dy, Tensor q, Tensor k, Tensor v) -> (Tensor, Tensor, Tensor)")
attention, attention_backward = torch.ops.duet_benchmarks.attention, torch.ops.duet_benchmarks.attention_backward


@torch.library.register_fake(ATTENTION)
def _(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    return torch.empty_like(q)  # in the order of q, as the fused kernels do


@torch.library.register_fake(f"{ATTENTION}_backward")
def _(dy: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


torch.library.register_autograd(
    ATTENTION,
    lambda ctx, dy: (*attention_backward(dy, *ctx.saved_tensors), None),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs[:3]),
)


class Traffic(TorchDispatchMode):
    """Counts calls and bytes by operation."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name
        moves = func._schema.is_mutable or not any(result.alias_info for result in func._schema.returns)
        if moves and name.removeprefix("aten::") not in UNTOUCHED:
            tensors = {id(leaf): leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)}
            again = [value for value in args[: READ_TWICE.get(name, 0)] if isinstance(value, Tensor)]
            self.calls[name] += 1
            self.bytes[name] += sum(map(stored, [*tensors.values(), *again]))
        return out


def stored(value: Tensor) -> int:
    """Bytes of the distinct elements; expanded dimensions have one."""
    sides = (side for side, stride in zip(value.shape, value.stride(), strict=True) if stride)
    return math.prod(sides) * value.element_size()


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Layers choose the order of work of a GPU, and its ops count as one each."""

    def attend(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        return attention(q, k, v, attn_mask)

    with (
        mock.patch.object(ops, "fused", return_value=True),
        mock.patch.object(group_norm._Direct, "apply", lambda *arguments: group_norm._group_norm(*arguments)),
        mock.patch.object(F, "scaled_dot_product_attention", attend),
    ):
        yield


def work(config: TrainingConfig, batch: int) -> tuple[Traffic, float]:
    """Traffic and floating-point operations of forward and backward of one batch in bfloat16, attention's operations
    not among them."""
    clip, base = config.model.clip, config.model.base
    traffic, operations = Traffic(), FlopCounterMode(display=False)
    with as_on_a_gpu(), torch.device("meta"):
        network = ComputeIn(CoupledUNet(base), torch.bfloat16)
        clips = Pair(torch.empty(batch, *clip.video_shape), torch.empty(batch, *clip.audio_shape))
        times, shifts = torch.empty(batch), torch.empty(batch, len(base.block_windows), dtype=torch.long)
        words: Sequence[object] = ()
        if base.text is not None:
            tokens = torch.empty(batch, TEXT_TOKENS, base.text)
            words = True, TextTokens(tokens, torch.empty(tokens.shape[:2], dtype=torch.bool))
        with traffic, operations:
            predicted = network(clips, Pair(times, times), shifts, *words)
            torch.stack([value.square().mean() for value in predicted]).sum().backward()
    return traffic, operations.get_total_flops()


def report(config: TrainingConfig, batch: int, device: dict[str, Any]) -> dict[str, Any]:
    """`device`: what the part of that name of benchmarks.gpu found."""
    traffic, flop = work(config, batch)
    moved = sum(traffic.bytes.values())
    memory, arithmetic = moved / device["copy_gb_per_s"] / 1e6, flop / device["matrix_product_tflop_per_s"] / 1e9
    return {
        "batch": batch,
        "tflop": round(flop / 1e12, 2),
        "gigabytes": round(moved / 1e9, 1),
        "operations": sum(traffic.calls.values()),
        "device": device["name"],
        "bound_ms": {"arithmetic": round(arithmetic, 1), "memory": round(memory, 1)},
        "bound_samples_per_s": round(1000 * batch / max(arithmetic, memory)),
        "most": {
            name: {"calls": traffic.calls[name], "gigabytes": round(count / 1e9, 2)}
            for name, count in traffic.bytes.most_common(LISTED)
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_work", description=__doc__)
    parser.add_argument("--config", type=Path, default=CONFIGURATION)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--gpu", type=Path, default=FILE, help="a file of benchmarks.gpu, for the device's ceilings")
    options = parser.parse_args()
    device = json.loads(options.gpu.read_text(encoding="utf-8"))["parts"]["device"]
    found = report(read_configuration(options.config, []), options.batch, device)
    sys.stdout.write(f"{json.dumps(found, indent=1)}\n")


if __name__ == "__main__":
    main()
