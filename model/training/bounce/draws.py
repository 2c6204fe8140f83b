"""Counter-based generator: uniform numbers that depend only on (seed, index, name of the draw), on any device.

Integer arithmetic is exact, so devices agree. There is no state between samples, so a sample does not depend on its
batch.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


_GAMMA = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


class Draws:
    """Draws for the samples `indexes` (batch,) int64 of the stream `key`."""

    def __init__(self, key: str, indexes: Tensor) -> None:
        self._key = key
        self._indexes = indexes

    def uniform(self, name: str, *shape: int) -> Tensor:
        """(batch, *shape) float64, uniform in [0, 1)."""
        digest = hashlib.sha256(f"{self._key}/{name}".encode()).digest()
        own = _mix(self._indexes * _GAMMA + int.from_bytes(digest[:8], "little", signed=True))
        count = torch.Size(shape).numel()
        counters = torch.arange(1, count + 1, device=own.device) * _GAMMA
        bits = _mix(own[:, None] + counters)
        return (_shifted(bits, 11).double() * 2.0**-53).view(-1, *shape)

    def between(self, name: str, low: float, high: float, *shape: int) -> Tensor:
        """(batch, *shape) float64, uniform in [low, high)."""
        return low + (high - low) * self.uniform(name, *shape)


def _mix(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).

    int64 products wrap around like unsigned ones.
    """
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Logical right shift; int64's own shift copies the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
