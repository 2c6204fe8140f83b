"""Makes attacks on a real API in a process of its own, and measures its memory and the latency of another client."""

from __future__ import annotations

import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from service.jobs.connection import connect
from service.jobs.events import MAX_SPRITE, Preview, Previews, Sprite
from service.jobs.record import Job, Output, Progress, Timings
from service.jobs.store import JobStore
from service.settings import Settings
from service.storage import open_storage
from tests.hostile import headers, slow_clients, smuggling
from tests.hostile.attack import Attack, Target
from tests.hostile.bystander import Bystander
from tests.service.new_jobs import a_job
from tests.waiting import until

ATTACKS = [*headers.ATTACKS, *slow_clients.ATTACKS, *smuggling.ATTACKS]

MEMORY_LIMIT = 64 * 2**20
"""Bytes by which the API's memory may grow during one attack."""

LATENCY_LIMIT = 2.0
"""Seconds: the 99th percentile of another client's requests during one attack."""

USUAL_OPEN_FILES = 1024
"""The limit on open files with which a process usually starts."""

SAMPLES = 20
"""Requests of the other client during an attack, at least."""

HEADER_TIMEOUT = 3
LARGE_BYTES = 64 * 2**20
"""Of the file that slow clients read."""


@dataclass(frozen=True)
class Result:
    """`growth` of the API's memory in bytes; `latency` of another client, 99th percentile in seconds; `wrong` in words,
    None if the API stood."""

    attack: Attack
    growth: int
    latency: float
    seconds: float
    wrong: str | None

    def __str__(self) -> str:
        return (
            f"{self.seconds:5.1f} s  {self.growth / 2**20:6.1f} MiB  {self.latency * 1000:5.0f} ms  {self.attack}"
            f"  {self.wrong or ''}"
        )


class Siege:
    """Makes attacks on `target`, an API that runs as `process`, while `bystander` uses it."""

    def __init__(self, process: subprocess.Popen[bytes], target: Target, bystander: Bystander) -> None:
        self._process = process
        self._target = target
        self._bystander = bystander

    def run(self, attack: Attack) -> Result:
        before = self._memory()
        peak, over = [before], threading.Event()
        meter = threading.Thread(target=self._measure, args=[peak, over])
        meter.start()
        began = time.monotonic()
        try:
            wrong = attack.act(self._target)
            seconds = time.monotonic() - began
            until(lambda: len(self._bystander.since(began)) >= SAMPLES, "another client is served", 120)
        finally:
            over.set()
            meter.join()
        growth = peak[0] - before
        latency = statistics.quantiles(self._bystander.since(began), n=100, method="inclusive")[98]
        if self._process.poll() is not None:
            wrong = f"the API ended with {self._process.returncode}"
        elif growth > MEMORY_LIMIT:
            wrong = wrong or f"the API's memory grew by {growth / 2**20:.0f} MiB"
        elif latency > LATENCY_LIMIT:
            wrong = wrong or f"another client waited {latency:.2f} s (p99)"
        return Result(attack, growth, latency, seconds, wrong)

    def _measure(self, peak: list[int], over: threading.Event) -> None:
        while not over.wait(0.02):
            peak[0] = max(peak[0], self._memory())

    def _memory(self) -> int:
        """Resident bytes."""
        try:
            return int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]) * resource.getpagesize()
        except OSError:  # it has ended
            return 0


@contextmanager
def besieged(settings: Settings, seconds: float) -> Iterator[Siege]:
    """An API process with `settings`, a large file and a running job. `seconds`: the time of one attack."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # of the attacker
    values = settings.model_dump(mode="json", exclude_unset=True)
    values |= {"header_timeout_s": HEADER_TIMEOUT, "log_level": "error"}
    environment = {f"DUET_{name.upper()}": str(value) for name, value in values.items()}
    large, (events, publish) = _large_file(settings), _running_job(settings)
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        port = listener.getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        process = subprocess.Popen(
            [sys.executable, "-m", "duet", "api", "--descriptor", str(listener.fileno())],
            stdin=subprocess.DEVNULL,
            env={**os.environ, **environment},
            pass_fds=[listener.fileno()],
        )
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (USUAL_OPEN_FILES, hard))
    try:
        until(
            lambda: httpx.get(f"{url}/healthz", timeout=60, trust_env=False).is_success,
            "the API answers",
            60,
        )
        limit = settings.max_connections_per_address
        with Bystander(url) as bystander:
            yield Siege(process, Target(port, seconds, large, events, publish, HEADER_TIMEOUT, limit), bystander)
    finally:
        process.terminate()
        process.wait(20)


def _large_file(settings: Settings) -> str:
    """The path of a result of LARGE_BYTES."""
    job = _claimed(settings)
    key = job.attempt_key("0/video.mp4")
    with tempfile.TemporaryDirectory(dir=settings.data) as folder:
        path = Path(folder) / "video.mp4"
        path.touch()
        os.truncate(path, LARGE_BYTES)
        open_storage(settings).put_file(key, path, "video/mp4")
    JobStore(connect(settings)).complete(job.id, job.attempt, [Output(0, 1, {"video.mp4": key})], Timings())
    return f"/jobs/{job.id}/files/video.mp4"


def _running_job(settings: Settings) -> tuple[str, Callable[[], None]]:
    """The path of its events, and what publishes some more of them: a step, and a preview as large as allowed."""
    store, previews, job = JobStore(connect(settings)), Previews(connect(settings)), _claimed(settings)
    sprite = Sprite(os.urandom(MAX_SPRITE), 4, 4, 16, 64, 64)

    def publish() -> None:
        store.progress(job.id, job.attempt, Progress("base", 1, 2, 0.5))
        previews.publish(job.id, job.attempt, Preview(0, "base", 1, 2, sprite, None))

    return f"/jobs/{job.id}/events", publish


def _claimed(settings: Settings) -> Job:
    store, job = JobStore(connect(settings)), a_job()
    store.create(job)
    claimed = store.claim(job.id, "nobody")
    assert claimed is not None
    return store.start(job.id, claimed.attempt)


def figures(results: Sequence[Result]) -> str:
    """The results, in lines."""
    hungriest = max(results, key=lambda each: each.growth)
    slowest = max(results, key=lambda each: each.latency)
    lines = [
        f"{len(results)} attacks by connections in {len({each.attack.family for each in results})} families",
        f"  most memory: {hungriest.growth / 2**20:.0f} MiB more: {hungriest.attack}",
        f"  another client's slowest 99th percentile: {slowest.latency * 1000:.0f} ms: {slowest.attack}",
    ]
    return "\n".join([*lines, *(f"WRONG {each.attack}: {each.wrong}" for each in results if each.wrong)])
