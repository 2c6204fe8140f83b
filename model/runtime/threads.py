"""How many threads this process can make use of: the cores it may run on, not those that the machine has."""

from __future__ import annotations

import math
import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_QUOTA_V1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")


def available_cores() -> int:
    """Cores of this process' affinity, or fewer where a container has a share of the processor only.

    PyTorch starts a thread for every core of the machine; with a quota of two on a machine of 64 most of them only wait
    for each other.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        cores = os.cpu_count() or 1
    quota = _quota()
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def _quota() -> float | None:
    """Cores that the control group may use at a time; None without a limit."""
    try:
        used, period = _QUOTA.read_text().split()
    except (OSError, ValueError):
        try:
            used, period = (path.read_text().strip() for path in _QUOTA_V1)
        except OSError:
            return None
    return None if used in ("max", "-1") else int(used) / int(period)
