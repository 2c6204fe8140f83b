"""Weights drawn from a seed and the tensor names, bit-identical on every machine.

Each tensor is a stream of splitmix64 numbers (Steele, Lea & Flood, OOPSLA 2014) whose state starts at seed · 2³² +
crc32 of the tensor's name. The upper 24 bits of a number make u in [-1, 1), exact in float32. Tensors of two or more
dimensions are u · √(3 / fan_in), so that their standard deviation is 1/√fan_in; one-dimensional gains (`….weight`) are
1 + 0.2 u and biases 0.1 u. All in float32, one multiplication and at most one addition.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

_MASK32 = 0xFFFF_FFFF


def uniform(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Numbers in [-1, 1) on a grid of 2⁻²³, float32."""
    start = np.uint64((seed & _MASK32) << 32 | zlib.crc32(name.encode()) & _MASK32)
    z = np.arange(1, math.prod(shape) + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):  # arithmetic modulo 2⁶⁴ is what the generator is made of
        z *= np.uint64(0x9E37_79B9_7F4A_7C15)
        z += start
        z ^= z >> np.uint64(30)
        z *= np.uint64(0xBF58_476D_1CE4_E5B9)
        z ^= z >> np.uint64(27)
        z *= np.uint64(0x94D0_49BB_1331_11EB)
        z ^= z >> np.uint64(31)
    bits = (z >> np.uint64(40)).astype(np.float32)
    return (bits * np.float32(2**-23) - np.float32(1)).reshape(shape)


def weight(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """One tensor of a network."""
    u = uniform(name, shape, seed)
    if len(shape) > 1:
        u *= np.float32(np.sqrt(3.0 * shape[0] / math.prod(shape)))
    elif name.endswith(".weight"):
        u = np.float32(1) + np.float32(0.2) * u
    else:
        u *= np.float32(0.1)
    return torch.from_numpy(u)


def weights(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """All tensors of a network, named and shaped as in `shapes`."""
    return {name: weight(name, shape, seed) for name, shape in shapes.items()}
