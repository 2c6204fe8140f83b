"""Overhead of the service over the model, with networks of known timing (`benchmarks.timed`). Prints JSON.

    python -m benchmarks.service [--jobs 40] [--load 320]

- overhead: time from `POST /generate` to the `completed` event, one job at a time, minus the time of the bare pipeline
  for the same clip and files, measured in a separate process before and after. `overhead_with_files` counts the writing
  of the files (mp4, wav, pictures) as overhead.
- throughput: clips per second relative to the bare pipeline in batches of 16, which writes no files: with 16 requests
  open, some of which are writing files, and with 20, the number that a worker claims so that the engine has 16.
- idle: fraction of the time under that load in which the device computed nothing.
- eta: |predicted − true| / true over the progress events of those jobs, from the second step on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from httpx_sse import EventSource

from benchmarks.embedded_stack import embedded_stack
from benchmarks.report import at_least, at_most, show, surroundings
from benchmarks.timed import LEDGER

FLIGHT, SLOTS = 16, 20
STEPS = 20
PARAMS = {"steps": STEPS, "super_resolution": False}

BATCH_SIZES = "1,2,4,8,16"
"""DUET_BUCKETS of the stack."""


@dataclass
class JobTimes:
    """One job as a client sees it: seconds from request to end, and for each promised ETA its time and its value."""

    seconds: float
    ended: float
    promises: list[tuple[float, float]] = field(default_factory=list)

    def errors(self) -> list[float]:
        """Relative error of every promise but the first, up to a tenth of a second before the end."""
        return [
            abs(promised - (self.ended - at)) / (self.ended - at)
            for at, promised in self.promises[1:]
            if self.ended - at > 0.1
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=40, help="jobs one at a time (default 40)")
    parser.add_argument("--load", type=int, default=320, help="jobs with 16 in flight (default 320)")
    arguments = parser.parse_args()
    bare = _bare(1), _bare(FLIGHT)
    with tempfile.TemporaryDirectory(prefix="duet-benchmark-") as folder:
        ledger = Path(folder) / "ledger"
        with embedded_stack(Path(folder), "benchmarks.timed", DUET_BUCKETS=BATCH_SIZES, **{LEDGER: str(ledger)}) as (
            url,
            _,
        ):
            asyncio.run(_many(url, 2 * FLIGHT, FLIGHT))  # connections, codecs, the first pages of memory
            single = asyncio.run(_many(url, arguments.jobs, 1))
            began = time.time()
            loaded = asyncio.run(_many(url, arguments.load, FLIGHT))
            elapsed = time.time() - began
            full_began = time.time()
            asyncio.run(_many(url, arguments.load, SLOTS))
            full = time.time() - full_began
        idle, batch = _device(ledger, began + 0.2 * elapsed, began + 0.8 * elapsed)
    again = _bare(1), _bare(FLIGHT)
    clip, clips = (statistics.median(first[0] + second[0]) for first, second in zip(bare, again, strict=True))
    files = statistics.median(bare[0][1] + again[0][1])
    overhead = [1000 * (job.seconds - clip - files) for job in single]
    errors = [error for job in single + loaded for error in job.errors()]
    figures = {
        "overhead_p50_ms": at_most(150, statistics.median(overhead)),
        "overhead_p99_ms": at_most(400, statistics.quantiles(overhead, n=100, method="inclusive")[98]),
        "throughput_share": at_least(0.95, len(loaded) / elapsed * clips / FLIGHT),
        "throughput_share_full": at_least(0.95, arguments.load / full * clips / FLIGHT),
        "eta_median_error": at_most(0.2, statistics.median(errors)),
    }
    details = {
        "bare_clip_s": clip,
        "files_s": files,
        "bare_batch_of_16_s": clips,
        "job_p50_s": statistics.median(job.seconds for job in single),
        "overhead_with_files_p50_ms": statistics.median(overhead) + 1000 * files,
        "clips_per_s": len(loaded) / elapsed,
        "mean_batch": batch,
        "idle_share": idle,
    }
    report = {
        **surroundings(),
        "jobs": {"one_at_a_time": len(single), "16_in_flight": len(loaded), "promises": len(errors)},
        "details": {name: round(value, 4) for name, value in details.items()},
        "figures": figures,
    }
    show(report)


def _bare(batch: int, repeats: int = 5) -> tuple[list[float], list[float]]:
    """Seconds of `batch` clips in lockstep and of one clip's files, for each pass, in a separate process."""
    command = [sys.executable, "-m", "benchmarks.bare", str(batch), str(repeats), str(STEPS)]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    clips, files = zip(*json.loads(output), strict=True)
    return list(clips), list(files)


async def _many(url: str, count: int, flight: int) -> list[JobTimes]:
    """Run `count` jobs, `flight` at a time."""
    left = iter(range(count))
    seen: list[JobTimes] = []

    async def one_after_the_other(client: httpx.AsyncClient) -> None:
        for number in left:
            seen.append(await timed_job(client, {**PARAMS, "seed": number}))

    async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as client:
        await asyncio.gather(*(one_after_the_other(client) for _ in range(flight)))
    return seen


async def timed_job(client: httpx.AsyncClient, params: Mapping[str, object]) -> JobTimes:
    """Run one job of `generate`. Raises SystemExit if it fails."""
    began = time.perf_counter()
    answer = await client.post("/generate", json=params)
    answer.raise_for_status()
    promises = []
    async with client.stream("GET", f"{answer.headers['location']}/events") as response:
        async for event in EventSource(response).aiter_sse():
            now = time.perf_counter()
            if event.event == "progress":
                data = event.json()
                if data["eta_seconds"] is not None and data["stage"] == "base":
                    promises.append((now, data["eta_seconds"]))
            elif event.event in ("failed", "canceled"):
                raise SystemExit(f"a job {event.event}: {event.json()['error']}")
            elif event.event == "completed":
                return JobTimes(now - began, now, promises)
    raise SystemExit("the events ended before the job did")


def _device(ledger: Path, began: float, ended: float) -> tuple[float, float]:
    """Fraction of the time between two moments without a forward, and the mean number of clips in a forward."""
    lines = [tuple(map(float, line.split())) for line in ledger.read_text().splitlines()]
    within = [(seconds, clips) for end, seconds, clips in lines if began <= end <= ended]
    return 1 - sum(seconds for seconds, _ in within) / (ended - began), statistics.mean(clips for _, clips in within)


if __name__ == "__main__":
    main()
