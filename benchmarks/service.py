"""Overhead of the service over the model, with networks of known timing (`benchmarks.timed`). Prints JSON.

    python -m benchmarks.service [--jobs 40] [--load 320]

- overhead: from sending `POST /generate` to the `completed` event, one job at a time, less what the bare pipeline takes
  for the same work, the clip and its files, in a process of its own, before and after. `overhead_with_files` counts the
  writing of the files (mp4, wav, pictures) as the service's.
- throughput: clips a second against the bare pipeline in batches of 16, which writes no files: with 16 requests open,
  some of whose jobs are being written, and with 20, which is what a worker takes so that the engine has 16.
- idle: share of time under that load in which the device computed nothing.
- eta: |promised − true| / true over the progress events of those jobs, from the second step on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.end_to_end import surroundings
from benchmarks.report import show
from benchmarks.timed import LEDGER

FLIGHT, SLOTS = 16, 20
STEPS = 20
PARAMS = {"steps": STEPS, "super_resolution": False}

TARGETS = {
    "overhead_p50_ms": ("at most", 150.0),
    "overhead_p99_ms": ("at most", 400.0),
    "throughput_share": ("at least", 0.95),
    "throughput_share_full": ("at least", 0.95),
    "eta_median_error": ("at most", 0.2),
}


@dataclass
class Seen:
    """One job as a client saw it: seconds from its request to its end, and of each promise when it was made and what
    it said."""

    seconds: float
    ended: float
    promises: list[tuple[float, float]] = field(default_factory=list)

    def errors(self) -> list[float]:
        """Relative error of every promise but the first, as long as there was a tenth of a second left."""
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
        with serving(Path(folder), ledger) as url:
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
        "overhead_p50_ms": statistics.median(overhead),
        "overhead_p99_ms": statistics.quantiles(overhead, n=100, method="inclusive")[98],
        "throughput_share": len(loaded) / elapsed * clips / FLIGHT,
        "throughput_share_full": arguments.load / full * clips / FLIGHT,
        "eta_median_error": statistics.median(errors),
    }
    details = {
        "bare_clip_s": clip,
        "files_s": files,
        "bare_batch_of_16_s": clips,
        "job_p50_s": statistics.median(job.seconds for job in single),
        "overhead_with_files_p50_ms": figures["overhead_p50_ms"] + 1000 * files,
        "clips_per_s": len(loaded) / elapsed,
        "mean_batch": batch,
        "idle_share": idle,
    }
    report = {
        **surroundings(),
        "jobs": {"one_at_a_time": len(single), "16_in_flight": len(loaded), "promises": len(errors)},
        "details": {name: round(value, 4) for name, value in details.items()},
        "figures": {name: _figure(name, value) for name, value in figures.items()},
    }
    show(report)


def _figure(name: str, value: float) -> dict[str, Any]:
    kind, target = TARGETS[name]
    return {
        "value": round(value, 3),
        "target": f"{kind} {target:g}",
        "met": value <= target if kind == "at most" else value >= target,
    }


def _bare(batch: int, repeats: int = 5) -> tuple[list[float], list[float]]:
    """Seconds of `batch` clips in lockstep and of the files of one, of each pass; in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.bare", str(batch), str(repeats), str(STEPS)]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    clips, files = zip(*json.loads(output), strict=True)
    return list(clips), list(files)


async def _many(url: str, count: int, flight: int) -> list[Seen]:
    """`count` jobs, `flight` of them at a time."""
    left = iter(range(count))
    seen: list[Seen] = []

    async def one_after_the_other(client: httpx.AsyncClient) -> None:
        for number in left:
            seen.append(await _one(client, number))

    async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as client:
        await asyncio.gather(*(one_after_the_other(client) for _ in range(flight)))
    return seen


async def _one(client: httpx.AsyncClient, number: int) -> Seen:
    began = time.perf_counter()
    answer = await client.post("/generate", json={**PARAMS, "seed": number})
    answer.raise_for_status()
    promises = []
    async with client.stream("GET", f"{answer.headers['location']}/events") as response:
        async for name, data in events(response):
            now = time.perf_counter()
            if name == "progress" and data["eta_seconds"] is not None and data["stage"] == "base":
                promises.append((now, data["eta_seconds"]))
            if name in ("completed", "failed", "canceled"):
                if name != "completed":
                    raise SystemExit(f"a job {name}: {data['error']}")
                return Seen(now - began, now, promises)
    raise SystemExit("the events ended before the job did")


async def events(response: httpx.Response) -> AsyncIterator[tuple[str, Any]]:
    name = ""
    async for line in response.aiter_lines():
        if line.startswith("event:"):
            name = line.partition(":")[2].strip()
        elif line.startswith("data:"):
            yield name, json.loads(line.partition(":")[2])


def _device(ledger: Path, began: float, ended: float) -> tuple[float, float]:
    """Share of the time between two moments in which no forward ran, and clips in a forward on average."""
    lines = [tuple(map(float, line.split())) for line in ledger.read_text().splitlines()]
    within = [(seconds, clips) for end, seconds, clips in lines if began <= end <= ended]
    return 1 - sum(seconds for seconds, _ in within) / (ended - began), statistics.mean(clips for _, clips in within)


@contextmanager
def serving(folder: Path, ledger: Path) -> Iterator[str]:
    log = folder / "log"
    own = {"DUET_PORT": "0", "DUET_DATA": str(folder / "data"), "DUET_BUCKETS": "1,2,4,8,16", LEDGER: str(ledger)}
    environment = {**os.environ, **own}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.timed"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
        )
    try:
        while not (match := re.search(r"Ready after .*(http://\S+)", log.read_text())):
            if process.poll() is not None:
                raise SystemExit(f"the stack ended before it was ready:\n{log.read_text()}")
            time.sleep(0.1)
        yield match[1]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


if __name__ == "__main__":
    main()
