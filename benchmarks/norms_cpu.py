"""The group norm on a CPU beside two others; part of benchmarks.norms.

The norm is PyTorch's channels-last kernel, with FiLM folded into its affine map for a single sample. `separate` is
how the networks computed it before it was one operation: skip connections, FiLM, SiLU, and the transposition of
attention over frames, each on its own. `channels_first` transposes to (batch, channels, …) and back. All take and
return channels-last float32 and alternate in one process. A speed-up is the median ratio of another's time to the
norm's, for a forward without gradients and for forward and backward.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice, permutations
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.report import surroundings
from model.networks.ops.group_norm import group_norm

LARGEST = 2**23
"""Values of a case at most; of those with more, as many of the first samples as fit."""

Norm = Callable[[Tensor, Tensor | None], Tensor]


class Case(Protocol):
    """A norm to measure, as in benchmarks.norms."""

    name: str
    shape: tuple[int, ...]
    skip: int
    modulated: bool
    inner: int


@dataclass(frozen=True)
class Layer:
    """What a norm does besides: FiLM, SiLU, and the transposition for attention over frames if `inner` is above 1."""

    weight: Tensor
    bias: Tensor
    modulation: Tensor | None
    silu: bool
    inner: int


def compare(cases: Sequence[Case], repeats: int) -> dict[str, Any]:
    """The report for all `cases`."""
    return {
        **surroundings(),
        "threads": torch.get_num_threads(),
        "results": [_compared(case, repeats) for case in cases],
    }


def _compared(case: Case, repeats: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    samples = max(1, min(case.shape[0], LARGEST // math.prod(case.shape[1:])))
    shape, channels = (samples, *case.shape[1:]), case.shape[-1] + case.skip
    x, skip = drawn(*shape), drawn(*shape[:-1], case.skip) if case.skip else None
    weight, bias = 1 + 0.3 * drawn(channels), 0.3 * drawn(channels)
    modulation = drawn(samples, 2 * channels) if case.modulated else None
    silu = case.inner == 1

    def ours(x: Tensor, skip: Tensor | None) -> Tensor:
        return group_norm(x, weight, bias, 32, modulation=modulation, silu=silu, skip=skip, inner=case.inner)

    layer = Layer(weight, bias, modulation, silu, case.inner)
    norms: dict[str, Norm] = {
        "ours": ours,
        "separate": partial(separate, layer),
        "channels_first": partial(channels_first, layer),
    }
    with torch.inference_mode():
        found = [norm(x, skip) for norm in norms.values()]
        error = max(((value - found[0]).norm() / found[0].norm()).item() for value in found[1:])
        forward = _timed({name: partial(norm, x, skip) for name, norm in norms.items()}, repeats)
    training = _timed({name: partial(_trained, norm, x, skip) for name, norm in norms.items()}, repeats)
    return {
        "case": case.name,
        "shape": list(shape),
        **{f"forward_{name}": value for name, value in forward.items()},
        **{f"training_{name}": value for name, value in training.items()},
        "difference": float(f"{error:.1e}"),
    }


def separate(layer: Layer, x: Tensor, skip: Tensor | None) -> Tensor:
    """`group_norm` of 32 groups by separate operations on channels-last tensors."""
    x, weight, bias, inner = _joined(x, skip), layer.weight, layer.bias, layer.inner
    if inner > 1:
        x = x.transpose(1, 2).contiguous().flatten(0, 1)
    scale = shift = None
    if layer.modulation is not None:
        scale, shift = layer.modulation.chunk(2, dim=1)
        scale = scale + 1
        if len(x) == 1:
            weight, bias, scale = weight * scale[0], bias * scale[0] + shift[0], None
    planes = x.view(len(x), -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
    y = torch.group_norm(planes, 32, weight, bias).permute(0, 2, 3, 1).reshape(x.shape)
    if scale is not None and shift is not None:
        per_sample = (len(x), *(1,) * (x.dim() - 2), -1)
        y = torch.addcmul(shift.view(per_sample), y, scale.view(per_sample))
    y = F.silu(y, inplace=not torch.is_grad_enabled()) if layer.silu else y
    return y.unflatten(0, (-1, inner)).transpose(1, 2).contiguous() if inner > 1 else y


def channels_first(layer: Layer, x: Tensor, skip: Tensor | None) -> Tensor:
    """`group_norm` of 32 groups with its tensors transposed to (batch, channels, …) and back."""
    x, inner = _joined(x, skip), layer.inner
    h = x.transpose(1, 2).flatten(0, 1) if inner > 1 else x
    h = F.group_norm(h.movedim(-1, 1).contiguous(), 32, layer.weight, layer.bias)
    if layer.modulation is not None:
        scale, shift = layer.modulation.view(len(h), -1, *(1,) * (h.dim() - 2)).chunk(2, dim=1)
        h = h * (1 + scale) + shift
    h = (F.silu(h) if layer.silu else h).movedim(1, -1)
    return (h.unflatten(0, (-1, inner)).transpose(1, 2) if inner > 1 else h).contiguous()


def _joined(x: Tensor, skip: Tensor | None) -> Tensor:
    return x if skip is None else torch.cat([x, skip], dim=-1)


def _trained(norm: Norm, x: Tensor, skip: Tensor | None) -> None:
    variables = [value.detach().requires_grad_() for value in (x, skip) if value is not None]
    y = norm(variables[0], variables[1] if skip is not None else None)
    torch.autograd.grad(y, variables, torch.ones_like(y))


def _timed(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, Any]:
    """Median milliseconds of the first of `runs`, and the median ratios of the times of the others to it.

    Each round has another order, because a run leaves its data in the cache for the next one.
    """
    rounds: list[dict[str, float]] = []
    for order in islice(cycle(permutations(runs)), repeats + 1):
        times = {}
        for name in order:
            began = time.perf_counter()
            runs[name]()
            times[name] = time.perf_counter() - began
        rounds.append(times)
    first, *others = runs
    rounds = rounds[1:]  # the first warms up
    ratios = {other: statistics.median(times[other] / times[first] for times in rounds) for other in others}
    return {
        "ms": round(1000 * statistics.median(times[first] for times in rounds), 2),
        "speedup": {name: round(ratio, 2) for name, ratio in ratios.items()},
    }
