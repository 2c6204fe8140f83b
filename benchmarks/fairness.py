"""How long short jobs take beside long ones, with networks of known timing (`benchmarks.timed`). Prints JSON.

    python -m benchmarks.fairness [--jobs 40] [--seconds 60]

Short jobs, of one window, run one at a time: alone, beside one long job, and beside more long jobs than the worker has
slots. A long job that ends is followed by another. The aim for the 95th percentile beside one long job is twice that of
alone and one step. Then long jobs are cancelled at several points of their run, each alone: seconds until their end.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path

import httpx

from benchmarks.embedded_stack import embedded_stack
from benchmarks.report import at_most, show, surroundings
from benchmarks.service import PARAMS, STEPS, timed_job

BATCH_SIZES = "1,2,4"
"""DUET_BUCKETS of the stack: those of a CPU."""

SLOTS = 5
"""Of a worker with these batch sizes."""

CANCEL_AT = (0.0, 0.02, 0.2, 0.4, 0.6, 0.8, 0.95)
"""Progress of a long job at which it is cancelled."""

STEP = 0.025
"""Seconds of a step of one clip alone."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=40, help="short jobs of each figure (default 40)")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the clips of long jobs (default 60)")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="duet-benchmark-") as folder,
        embedded_stack(Path(folder), "benchmarks.timed", DUET_BUCKETS=BATCH_SIZES) as (url, _),
    ):
        measured = asyncio.run(_measure(url, arguments.jobs, arguments.seconds))
        to_the_end = asyncio.run(_cancelled(url, arguments.seconds))
    p95 = {name: _p95(seconds) for name, seconds in measured.items()}
    aim = 2 * p95["alone"] + STEP
    report = {
        **surroundings(),
        "short_jobs": arguments.jobs,
        "long_clip_s": arguments.seconds,
        "steps": STEPS,
        "median_s": {name: round(statistics.median(seconds), 4) for name, seconds in measured.items()},
        "p95_s": {name: round(value, 4) for name, value in p95.items()},
        "ratio_of_p95": {name: round(value / p95["alone"], 3) for name, value in p95.items()},
        "cancel_to_end_s": {f"{at:.0%}": round(value, 3) for at, value in to_the_end.items()},
        "figures": {"beside_one_p95_s": at_most(round(aim, 4), p95["beside_one"])},
    }
    show(report)


async def _measure(url: str, jobs: int, seconds: float) -> dict[str, list[float]]:
    async with httpx.AsyncClient(base_url=url, timeout=300, trust_env=False) as client:
        await _short(client, 3)  # connections, codecs, the first pages of memory
        found = {"alone": await _short(client, jobs)}
        async with _long_jobs(client, 1, seconds):
            found["beside_one"] = await _short(client, jobs)
        async with _long_jobs(client, SLOTS + 3, seconds):
            found["beside_many"] = await _short(client, jobs)
    return found


async def _cancelled(url: str, seconds: float) -> dict[float, float]:
    """Seconds from the request to cancel a long job to its end, by its progress."""
    found = {}
    async with httpx.AsyncClient(base_url=url, timeout=300, trust_env=False) as client:
        for at in CANCEL_AT:
            params = {**PARAMS, "seed": 0, "duration": seconds}
            path = (await client.post("/generate", json=params)).raise_for_status().headers["location"]
            while (job := (await client.get(path)).json())["status"] == "queued" or (job["progress"] or 0.0) < at:
                await asyncio.sleep(0.02)
            began = time.perf_counter()
            await client.post(f"{path}/cancel")
            while (job := (await client.get(path)).json())["status"] == "in_progress":
                await asyncio.sleep(0.005)
            found[at] = time.perf_counter() - began
            assert job["status"] == "canceled", job["status"]
    return found


async def _short(client: httpx.AsyncClient, jobs: int) -> list[float]:
    """Seconds of each job from the request to its end."""
    return [(await timed_job(client, {**PARAMS, "seed": number})).seconds for number in range(jobs)]


@asynccontextmanager
async def _long_jobs(client: httpx.AsyncClient, number: int, seconds: float) -> AsyncIterator[None]:
    """Keep `number` long jobs in the queue or at work for the block, and cancel them after it."""
    open_: set[str] = set()
    seeds = count()

    async def one_after_the_other() -> None:
        while True:
            params = {**PARAMS, "seed": next(seeds), "duration": seconds}
            path = (await client.post("/generate", json=params)).raise_for_status().headers["location"]
            open_.add(path)
            while (await client.get(path)).json()["status"] in ("queued", "in_progress"):
                await asyncio.sleep(0.1)
            open_.discard(path)

    tasks = [asyncio.create_task(one_after_the_other()) for _ in range(number)]
    async with AsyncExitStack() as at_the_end:
        for task in tasks:
            at_the_end.callback(task.cancel)
        while not open_ or not await _at_work(client, open_):
            await asyncio.sleep(0.05)
        yield
    await asyncio.gather(*tasks, return_exceptions=True)
    for path in open_:
        await client.post(f"{path}/cancel")
    while any([(await client.get(path)).json()["status"] in ("queued", "in_progress") for path in open_]):
        await asyncio.sleep(0.1)


async def _at_work(client: httpx.AsyncClient, paths: set[str]) -> bool:
    return any([(await client.get(path)).json()["status"] == "in_progress" for path in list(paths)])


def _p95(seconds: Sequence[float]) -> float:
    return statistics.quantiles(seconds, n=20, method="inclusive")[18]


if __name__ == "__main__":
    main()
