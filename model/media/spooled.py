"""Large arrays in files without a name, so that they take no memory.

The pages of such an array stay in the kernel's cache of the file, which is emptied where memory is short. `release`
takes them out of this process's own memory.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from math import prod
from pathlib import Path

import numpy as np

LARGE = 16 * 1024**2
"""Bytes from which an array is kept in a file."""


def filled(shape: tuple[int, ...], dtype: str, value: int, folder: Path | None) -> np.ndarray:
    """An array of `value`s; in a file in `folder`, if given, where it is large. Raises OSError if there is no room."""
    size = prod(shape) * np.dtype(dtype).itemsize
    if folder is None or size < LARGE:
        return np.full(shape, value, dtype)
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error here, and a signal later
        array: np.ndarray = np.memmap(file, dtype, "r+", shape=shape)
    if value:
        array[:] = value
        release(array)
    return array


def release(array: np.ndarray) -> None:
    """Free the memory of an array that is kept in a file. Its values stay. A copy of one is an array like others."""
    if isinstance(array, np.memmap) and array._mmap is not None:  # type: ignore[attr-defined]
        array._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]
