"""Pseudo-random numbers from a key, the same with every version of every library."""

from __future__ import annotations

import hashlib

import numpy as np

PUBLISHED_KEY = "duet signal mark 1"
"""The key unless another is set: any Duet finds marks made with it, and anybody can make or remove them."""


def keyed_noise(key: str, purpose: str, count: int) -> np.ndarray:
    """`count` independent numbers, uniform in [-1, 1): SHAKE-256 of `purpose` and `key`."""
    stream = hashlib.shake_256(f"{purpose}\0{key}".encode()).digest(4 * count)
    return np.frombuffer(stream, "<u4") / 2.0**31 - 1
