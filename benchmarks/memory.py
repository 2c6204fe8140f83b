"""Measures whether a worker's memory grows over 200 finished, cancelled and failed jobs. Prints JSON.

    python -m benchmarks.memory [--jobs 200]

The networks take almost no time (`benchmarks.timed`); decoding, encoding, storage and Redis are real. The resident
memory of the idle worker is read after every 20 jobs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
from httpx_sse import EventSource

from benchmarks.embedded_stack import embedded_stack
from benchmarks.report import at_most, show, surroundings
from benchmarks.service import BATCH_SIZES
from benchmarks.timed import BROKEN, CALL, CLIP

ROUND = 20
"""Jobs between two readings: the first two fail, the next four are cancelled, the rest complete."""

FLIGHT = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200, help="total number of jobs (default 200)")
    arguments = parser.parse_args()
    timing = {CALL: "0.005", CLIP: "0"}
    with (
        tempfile.TemporaryDirectory(prefix="duet-benchmark-") as folder,
        embedded_stack(Path(folder), "benchmarks.timed", DUET_BUCKETS=BATCH_SIZES, **timing) as (url, _),
    ):
        readings, ends = asyncio.run(_rounds(url, arguments.jobs // ROUND, _worker()))
    growth = readings[-1] / readings[0]
    report = {
        **surroundings(),
        "jobs": dict(ends),
        "resident_mib": [round(reading / 2**20, 1) for reading in readings],
        "figures": {"growth": at_most(1.05, growth, 4)},
    }
    show(report)


async def _rounds(url: str, rounds: int, worker: int) -> tuple[list[int], Counter[str]]:
    readings, ends = [], Counter[str]()
    async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as client:
        for _ in range(rounds):
            left = iter(range(ROUND))

            async def one_after_the_other(left: Any = left) -> list[str]:
                return [await _one(client, number) for number in left]

            for ended in await asyncio.gather(*(one_after_the_other() for _ in range(FLIGHT))):
                ends.update(ended)
            readings.append(_resident(worker))
    return readings, ends


async def _one(client: httpx.AsyncClient, number: int) -> str:
    """Run one job and return its final status."""
    body = {"steps": 20, "super_resolution": False, "seed": BROKEN if number < 2 else number}
    answer = await client.post("/generate", json=body)
    answer.raise_for_status()
    job = answer.headers["location"]
    async with client.stream("GET", f"{job}/events") as response:
        async for event in EventSource(response).aiter_sse():
            if event.event == "progress" and event.json()["stage"] and 2 <= number < 6:
                await client.post(f"{job}/cancel")
            if event.event in ("completed", "failed", "canceled"):
                return event.event
    raise SystemExit("the events ended before the job did")


def _worker() -> int:
    """Process id of this stack's worker."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            grandparent = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[1]
        except OSError:  # the process has ended
            continue
        if b"benchmarks.timed" in command and b"worker" in command and int(grandparent) == os.getpid():
            return int(folder.name)
    raise SystemExit("no worker is running")


def _resident(pid: int) -> int:
    """Resident bytes of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
