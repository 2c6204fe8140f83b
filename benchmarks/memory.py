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

from benchmarks.end_to_end import surroundings
from benchmarks.report import show
from benchmarks.service import events, serving
from benchmarks.timed import BROKEN, CALL, CLIP

ROUND = 20
"""Jobs between two readings: the first two fail, the next four are cancelled, the others finish."""

FLIGHT = 5
LIMIT = 1.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200, help="jobs in all (default 200)")
    arguments = parser.parse_args()
    os.environ |= {CALL: "0.005", CLIP: "0"}
    with (
        tempfile.TemporaryDirectory(prefix="duet-benchmark-") as folder,
        serving(Path(folder), Path(folder) / "ledger") as url,
    ):
        readings, ends = asyncio.run(_rounds(url, arguments.jobs // ROUND, _worker()))
    growth = readings[-1] / readings[0]
    report = {
        **surroundings(),
        "jobs": dict(ends),
        "resident_mib": [round(reading / 2**20, 1) for reading in readings],
        "figures": {"growth": {"value": round(growth, 4), "target": f"at most {LIMIT}", "met": growth <= LIMIT}},
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
        async for name, data in events(response):
            if name == "progress" and data["stage"] and 2 <= number < 6:
                await client.post(f"{job}/cancel")
            if name in ("completed", "failed", "canceled"):
                return name
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
    raise SystemExit("no worker runs")


def _resident(pid: int) -> int:
    """Bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
