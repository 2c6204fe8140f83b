"""Waiting times with 1 to 64 workers by load, and the point where Redis becomes the limit. Prints JSON and tables.

    python -m benchmarks.simulation [--short] [--measured FILE] [--figure docs/figures/scaling.png]

- waits: a discrete-event simulation (`benchmarks.waiting`) of two kinds of workers, or of one measured by
  `benchmarks.throughput`, beside the estimate of `duet plan`.
- Redis: the real store, queue and claims against a real Redis (`benchmarks.redis_cost`) give the CPU
  time of a job on the single core of Redis. That core bounds all workers together.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.redis_cost import RedisCost, measure
from benchmarks.report import surroundings
from benchmarks.waiting import batch_times, simulate
from duet.planning import Load, ServiceTime, estimated_gpu, waits

ENGINES: Mapping[str, Mapping[int, float]] = {
    # 15.4 s per clip, measured with an earlier, larger demo model. One clip keeps both cores busy; several share them.
    "two cores": {1: 15.4, 4: 61.6},
    # 20 steps of `benchmarks.timed`, whose networks sleep like a GPU would compute: 20 ms plus 5 ms per clip.
    "timed": {1: 0.5, 16: 2.0},
}
"""Seconds of a batch by its size: a model on two cores of an AMD EPYC, and a stand-in for a GPU."""

WORKERS = (1, 2, 4, 8, 16, 32, 64)
LOADS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
REDIS_SHARE = 0.7
"""Utilisation of Redis' core above which its responses begin to queue."""

AGEING_EVERY_S = 5.0
"""Seconds between ageing passes of each worker, the default of DUET_AGEING."""


def main() -> None:
    options = _options()
    engines = {"measured": _seconds(options.measured)} if options.measured else ENGINES
    jobs = 4_000 if options.short else 40_000
    workers, loads = ((1, 4), (0.5, 0.9)) if options.short else (WORKERS, LOADS)
    waited = {
        name: [_row(count, load, batch_times(seconds), jobs) for count in workers for load in loads]
        for name, seconds in engines.items()
    }
    costs = [measure(options.redis_jobs, clients) for clients in ((2,) if options.short else (1, 8))]
    limits = _limits(costs[-1], engines)
    report = {
        **surroundings(),
        "jobs_of_each_run": jobs,
        "engines": {name: dict(seconds) for name, seconds in engines.items()},
        "waits": waited,
        "redis": [{**asdict(cost), "jobs_per_s_ceiling": cost.jobs_per_s_ceiling} for cost in costs],
        "limits": limits,
    }
    print(json.dumps(report, indent=2))
    for name, rows in waited.items():
        print("\n".join([name, "", *_waits_table(rows, workers, loads), ""]), file=sys.stderr)
    print("\n".join(_redis_table(costs, limits)), file=sys.stderr)
    if options.figure:
        _draw(waited, options.figure)


def _row(workers: int, load: float, times: list[float], jobs: int) -> dict[str, Any]:
    seen = simulate(workers, times, load, jobs, seed=workers)
    batch = len(times) - 1
    expected = waits(workers, batch, seen.jobs_per_s, ServiceTime(times[batch], 0.0))
    return {
        "workers": workers,
        "load": load,
        **{name: round(value, 3) for name, value in asdict(seen).items()},
        "expected_wait_p95": round(expected.p95, 3),
    }


def _limits(cost: RedisCost, engines: Mapping[str, Mapping[int, float]]) -> list[dict[str, Any]]:
    """Number of workers of each speed that keep Redis' core busy for REDIS_SHARE of the time."""
    speeds = {name: max(size / seconds[size] for size in seconds) for name, seconds in engines.items()}
    for efficiency in (0.4, 1.0):
        speed = estimated_gpu(efficiency)
        seconds = speed.seconds("generate", Load(1, {"generate": 1.0})) / speed.batch
        speeds[f"H200 at {efficiency:.0%}, 20 + 8 steps, an estimate"] = 1 / seconds
    found = []
    for name, rate in speeds.items():
        own = cost.microseconds_per_idle_worker_s + cost.microseconds_per_ageing_of_1000 / AGEING_EVERY_S
        each = rate * cost.microseconds_per_job + own
        found.append({"worker": name, "clips_per_s": round(rate, 4), "workers": math.floor(1e6 * REDIS_SHARE / each)})
    return found


def _waits_table(rows: list[dict[str, Any]], workers: tuple[int, ...], loads: tuple[float, ...]) -> list[str]:
    by_place = {(row["workers"], row["load"]): row for row in rows}
    lines = ["| workers | " + " | ".join(f"load {load:.2f}" for load in loads) + " |", "|---" * (len(loads) + 1) + "|"]
    for count in workers:
        cells = [
            "{wait_p50:.3g} / {wait_p95:.3g} ({expected_wait_p95:.3g})".format(**by_place[count, load])
            for load in loads
        ]
        lines.append(f"| {count} | " + " | ".join(cells) + " |")
    return lines


def _redis_table(costs: list[RedisCost], limits: list[dict[str, Any]]) -> list[str]:
    lines = ["| Redis, by concurrent clients | " + " | ".join(str(cost.clients) for cost in costs) + " |"]
    lines.append("|---" * (len(costs) + 1) + "|")
    named = {
        "commands per job, including those in scripts": "{commands_per_job:.0f}",
        "CPU time per job": "{microseconds_per_job:.0f} µs",
        "memory per job until it expires": "{bytes_per_job:.0f} B",
        "memory per job in the first hour": "{bytes_per_job_at_first:.0f} B",
        "append-only file per job": "{disk_bytes_per_job:.0f} B",
        "jobs per second reached here": "{jobs_per_s_reached:.1f}",
        "an idle worker, per second": "{microseconds_per_idle_worker_s:.0f} µs",
        "an ageing pass over 1000 messages": "{microseconds_per_ageing_of_1000:.0f} µs",
    }
    lines += [
        f"| {name} | " + " | ".join(form.format(**asdict(cost)) for cost in costs) + " |"
        for name, form in named.items()
    ]
    lines.append(
        "| jobs per second with a full core | " + " | ".join(f"{c.jobs_per_s_ceiling:.0f}" for c in costs) + " |"
    )
    lines += ["", f"| worker | clips per second | workers that use {REDIS_SHARE:.0%} of Redis' core |", "|---|---|---|"]
    lines += [f"| {limit['worker']} | {limit['clips_per_s']} | {limit['workers']} |" for limit in limits]
    return lines


def _draw(waited: Mapping[str, list[dict[str, Any]]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(waited), 2, figsize=(10.5, 3.6 * len(waited)), squeeze=False)
    colours = plt.get_cmap("viridis")
    shown = {"wait_p95": "wait, 95th percentile", "latency_p95": "latency, 95th percentile"}
    for row, (name, rows) in zip(axes, waited.items(), strict=True):
        counts = sorted({each["workers"] for each in rows})
        for axis, (value, title) in zip(row, shown.items(), strict=True):
            for place, count in enumerate(counts):
                own = [each for each in rows if each["workers"] == count]
                colour = colours(0.9 * place / max(1, len(counts) - 1))
                label = f"{count} worker{'s' * (count > 1)}"
                axis.plot(
                    [each["load"] for each in own], [each[value] for each in own], "o-", color=colour, ms=4, label=label
                )
            if value == "wait_p95":  # many jobs do not wait
                axis.set_yscale("symlog", linthresh=rows[0]["latency_p95"] / 20)
                axis.set_ylim(0, None)
            else:
                axis.set_yscale("log")
            axis.set_title(f"{name}: {title}")
            axis.set_ylabel("seconds")
            axis.grid(alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel("load: fraction of the workers' capacity")
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def _seconds(path: Path) -> dict[int, float]:
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return {row["batch"]: row["batch"] / row["clips_per_s"] for row in rows if "clips_per_s" in row}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a few points, in half a minute")
    parser.add_argument("--measured", type=Path, help="output of `python -m benchmarks.throughput`")
    parser.add_argument("--redis-jobs", type=int, default=160, help="jobs to measure Redis with (default 160)")
    parser.add_argument("--figure", type=Path, help="also draw the waits into this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
