"""Whether the C library keeps freed memory or returns it to the system."""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
LARGEST = 1 << 30


def keep_freed_memory(keep: bool = True) -> bool:
    """Let glibc keep the memory of freed CPU tensors for reuse; `keep=False` restores the default.

    By default glibc returns every block of 32 MiB or more to the system at once, and the next tensor of that size costs
    a page fault per page: 15 % of a forward pass of the published network, whose largest activations are just above
    that size. In return the process stays at its peak size. Returns whether it was set; only glibc supports it.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    largest, trim = (LARGEST, 2**31 - 1) if keep else (128 * 1024, 128 * 1024)
    return bool(mallopt(M_MMAP_THRESHOLD, largest) and mallopt(M_TRIM_THRESHOLD, trim))


def release_freed_memory() -> None:
    """Return what is free in the heap to the system, whatever `keep_freed_memory` says. Does nothing without glibc."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
