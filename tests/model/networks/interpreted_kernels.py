"""Runs the Triton kernels under Triton's interpreter, with TRITON_INTERPRET=1 in the environment.

Prints one line of JSON for each case: the relative L2 distance of each result from the same in float64.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from triton.runtime import interpreter

from tests.model.networks.norm_reference import reference


@dataclass(frozen=True)
class Case:
    name: str
    shape: tuple[int, ...]
    groups: int
    skip: int = 0
    modulated: bool = False
    offset: tuple[int, int] | None = None
    silu: bool = True
    inner: int = 1
    dtype: torch.dtype = torch.float32
    mean: float = 2.0


CASES = (
    Case("audio with FiLM", (2, 75, 12), groups=4, modulated=True),
    Case("video beside a skip connection, groups across both", (1, 3, 5, 6, 10), skip=8, groups=3),
    Case("odd channels, a bias for each frame", (2, 3, 5, 6, 15), groups=3, modulated=True, offset=(1, 3)),
    Case("a bias for each sample, one channel a group", (2, 4, 5, 5, 4), groups=4, offset=(2, 1), silu=False),
    Case("few rows", (2, 4, 2, 2, 16), groups=2, modulated=True, offset=(1, 4)),
    Case("few rows beside a skip connection", (1, 14, 16), skip=8, groups=2),
    Case("over frames at each pixel, odd groups", (2, 5, 3, 12), groups=4, inner=3, silu=False),
    Case("bfloat16", (1, 70, 32), groups=4, modulated=True, dtype=torch.bfloat16),
    Case("float16 with a skip connection", (1, 40, 16), skip=16, groups=4, dtype=torch.float16),
    Case("a mean far from zero", (1, 90, 8), groups=2, mean=300.0),
)


def repair_interpreter() -> None:
    """Triton 3.6 ends loops by int() of an array with one dimension, which NumPy 2.4 refuses."""
    original = interpreter._patch_lang_tensor

    def patched(tensor: object, scope: object) -> None:
        original(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(np.asarray(self.handle.data).item()))  # type: ignore[attr-defined]

    interpreter._patch_lang_tensor = patched


def distance(actual: Tensor, expected: Tensor) -> float:
    return ((actual.double() - expected).norm() / expected.norm()).item()


def check_norm(case: Case) -> dict[str, float]:
    from model.networks.ops import group_norm_launch as launch

    launch.TILE, launch.SMALL_ROWS = 256, 16  # several tiles and chunks in small shapes
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    channels = case.shape[-1] + case.skip
    given = {
        "x": (drawn(*case.shape) + case.mean).to(case.dtype),
        "skip": (drawn(*case.shape[:-1], case.skip) - 1).to(case.dtype) if case.skip else None,
        "weight": 1 + 0.3 * drawn(channels),
        "bias": drawn(channels),
        "modulation": drawn(case.shape[0], 2 * channels) if case.modulated else None,
    }
    offset = drawn(*case.offset, channels).to(case.dtype) if case.offset else None
    y, mean, rstd = launch.forward(*given.values(), offset, case.groups, 1e-5, case.silu, case.inner)
    exact = {name: value.double().requires_grad_() for name, value in given.items() if value is not None}
    expected = reference(
        **exact,
        offset=offset.double() if offset is not None else None,
        groups=case.groups,
        silu=case.silu,
        inner=case.inner,
    )
    dy = drawn(*expected.shape).to(case.dtype)
    gradients = torch.autograd.grad(expected, list(exact.values()), dy.double())
    dx, d_skip, d_affine, d_modulation = launch.backward(
        dy, *given.values(), offset, mean, rstd, case.groups, case.silu, case.inner
    )
    actual = {"x": dx, "skip": d_skip, "weight": d_affine[0], "bias": d_affine[1], "modulation": d_modulation}
    distances = {"y": distance(y, expected.detach())}
    for name, gradient in zip(exact, gradients, strict=True):
        distances[f"gradient of {name}"] = distance(actual[name], gradient)
    return distances


def check_sum() -> dict[str, float]:
    from model.networks.ops import add_bias_kernel

    x, h, bias = torch.randn(3, 5, 7, 9), torch.randn(3, 5, 7, 9), torch.randn(9)
    return {"y": distance(add_bias_kernel.forward(x, h, bias), (x + h + bias).double())}


def check_attention(dtype: torch.dtype) -> dict[str, float]:
    """Odd numbers of everything; a window that wraps, queries after the last frame, each sample with its own shift."""
    from model.networks.ops import window_attention, window_attention_kernel

    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(1, 5, 3, 3, 2, 12, generator=generator).to(dtype).unbind(3)
    video, audio = (torch.randn(2, tokens, 3, 2, 16, generator=generator).to(dtype) for tokens in (13, 21))
    q, k, v, shift = video[:, :, 0], audio[:, :, 1], audio[:, :, 2], torch.tensor([[1, 0], [2, 0]])[:, 0]
    counts = 3, 4, 7, 2
    exact_frames = window_attention._over_frames_cpu(*(value.double() for value in frames))
    exact_windows = window_attention._windows_cpu(q.double(), k.double(), v.double(), *counts, shift)
    return {
        "over frames": distance(window_attention_kernel.over_frames(*frames), exact_frames),
        "windows": distance(window_attention_kernel.windows(q, k, v, *counts, shift), exact_windows),
    }


def main() -> None:
    repair_interpreter()
    for case in CASES:
        print(json.dumps({"case": case.name, "type": str(case.dtype), "distances": check_norm(case)}))
    print(json.dumps({"case": "residual with bias", "type": "torch.float32", "distances": check_sum()}))
    for dtype in (torch.float32, torch.float16):  # the interpreter multiplies the bits of bfloat16
        print(json.dumps({"case": "attention", "type": str(dtype), "distances": check_attention(dtype)}))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
