"""Where the time of an action goes on the device, kernel by kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.forward import seconds
from benchmarks.gpu_run import Run

TOP = 15
"""Kernels listed."""


def profile(run: Run, action: Callable[[], object]) -> dict[str, Any]:
    """Time of `action` by kernel, after two calls to warm up; on a CPU by operation."""
    activities = [torch.profiler.ProfilerActivity.CUDA if run.on_gpu else torch.profiler.ProfilerActivity.CPU]
    for _ in range(2):
        action()
    with torch.profiler.profile(activities=activities) as found:
        seconds(action, run.device)
    times = [
        (event.key, event.count, (event.self_device_time_total if run.on_gpu else event.self_cpu_time_total) / 1000)
        for event in found.key_averages()
    ]
    times = sorted((entry for entry in times if entry[2] > 0), key=lambda entry: -entry[2])
    total = sum(ms for _, _, ms in times)
    return {
        "kernel_ms": round(total, 2),
        "launches": sum(count for _, count, _ in times),
        "top": [
            {"name": name[:120], "count": count, "ms": round(ms, 3), "share": round(ms / total, 3)}
            for name, count, ms in times[:TOP]
        ],
    }
