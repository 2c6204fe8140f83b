"""The number of useful threads: the cores this process may use, not those of the machine."""

from __future__ import annotations

import math
import os
from pathlib import Path

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
