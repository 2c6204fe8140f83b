"""Threads that compute: how many are useful, and how many PyTorch takes."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_QUOTA_V1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")


def available_cores() -> int:
    """Cores in this process' affinity, or fewer under a container's CPU quota.

    PyTorch starts a thread for every core of the machine; with a quota of 2 on a machine of 64 cores most of them only
    wait for each other.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        cores = os.cpu_count() or 1
    quota = _quota()
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def compute_with(threads: int) -> None:
    """Let PyTorch compute with so many threads in the calling thread, whatever others choose before or after.

    PyTorch keeps a number for each thread, and initialises it at the thread's first parallel operation or query, with
    the value that any thread has set last. The query makes that happen before the number is set.
    """
    torch.get_num_threads()
    torch.set_num_threads(threads)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute in the calling thread only, for the block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _quota() -> float | None:
    """The CPU quota of the control group, in cores; None without a limit."""
    try:
        used, period = _QUOTA.read_text().split()
    except (OSError, ValueError):
        try:
            used, period = (path.read_text().strip() for path in _QUOTA_V1)
        except OSError:
            return None
    return None if used in ("max", "-1") else int(used) / int(period)
