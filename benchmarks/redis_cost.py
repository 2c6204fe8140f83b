"""Cost of a job in Redis: the real store, queue and claim protocol against a real Redis that flushes every write.

Redis uses one core, so its CPU time per job bounds the job rate of a whole installation.
"""

from __future__ import annotations

import multiprocessing
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis
from celery import Celery

from duet.standalone.resources import redis_program
from model.request import SamplingParams
from service.jobs.connection import connect
from service.jobs.queue import QUEUE, JobQueue, celery_config
from service.jobs.reaper import Reaper
from service.jobs.record import Output, Progress, Timings, new_job
from service.jobs.store import JobStore
from service.settings import Settings
from workers import transport

REPORTS = 20
"""Progress reports of a job: its steps, where none is held back for coming too soon."""

FILES = ("video.mp4", "audio.wav", "poster.webp", "spectrogram.png", "manifest.json")


@dataclass(frozen=True)
class RedisCost:
    """What was counted by Redis itself (INFO), and the rate that clients on the same machine reached."""

    clients: int
    commands_per_job: float
    microseconds_per_job: float
    bytes_per_job: float
    """In memory, as long as the job is kept."""
    bytes_per_job_at_first: float
    """With its events, which go an hour after its end."""
    disk_bytes_per_job: float
    jobs_per_s_reached: float
    microseconds_per_idle_worker_s: float
    microseconds_per_ageing_of_1000: float

    @property
    def jobs_per_s_ceiling(self) -> float:
        """If Redis did nothing else."""
        return 1e6 / self.microseconds_per_job


def measure(jobs: int, clients: int) -> RedisCost:
    """Run `jobs` jobs by as many processes as `clients`, then look at what the rounds of an idle worker cost."""
    with tempfile.TemporaryDirectory(prefix="duet-benchmark-") as name, _redis(Path(name)) as url:
        settings = Settings(redis_url=url, data=Path(name) / "data")
        with redis.Redis.from_url(url) as client:
            _jobs(url, 20)  # scripts are loaded, pages are touched
            client.delete(*client.scan_iter("duet:events:*", 1000))
            before = _counted(client)
            began = time.perf_counter()
            processes = [multiprocessing.Process(target=_jobs, args=(url, jobs // clients)) for _ in range(clients)]
            for process in processes:
                process.start()
            for process in processes:
                process.join()
            if any(process.exitcode for process in processes):
                raise SystemExit("a client ended with an error: nothing was measured")
            seconds = time.perf_counter() - began
            after = _counted(client)
            done = jobs // clients * clients
            events = list(client.scan_iter("duet:events:*", 1000))
            client.delete(*events)
            kept = _counted(client)["memory"]
            idle = _idle(client, settings)
            ageing = _ageing(client, settings)
    return RedisCost(
        clients=clients,
        commands_per_job=(after["commands"] - before["commands"]) / done,
        microseconds_per_job=1e6 * (after["cpu"] - before["cpu"]) / done,
        bytes_per_job=(kept - before["memory"]) / done,
        bytes_per_job_at_first=(after["memory"] - before["memory"]) / done,
        disk_bytes_per_job=(after["disk"] - before["disk"]) / done,
        jobs_per_s_reached=done / seconds,
        microseconds_per_idle_worker_s=idle,
        microseconds_per_ageing_of_1000=ageing,
    )


def _jobs(url: str, count: int) -> None:
    """Submit and run jobs one after the other, with what the API and a worker send to Redis for one."""
    settings = Settings(redis_url=url)
    store, queue = JobStore(connect(settings)), JobQueue(settings)
    transport.install()
    celery = Celery("duet", set_as_current=False)
    celery.conf.update(celery_config(settings))
    with celery.connection_for_read() as connection:
        messages = connection.SimpleQueue(QUEUE)
        for number in range(count):
            params = SamplingParams(seed=number)
            retention = timedelta(days=7)
            job = new_job("generate", "demo", params, priority="normal", metadata={}, retention=retention)
            store.create(job)
            queue.enqueue(job)
            message = messages.get(timeout=30)
            job_id = message.headers["id"]
            claimed = store.claim(job_id, "a worker")
            assert claimed is not None
            token = claimed.attempt
            store.start(job_id, token)
            for step in range(REPORTS):
                store.progress(job_id, token, Progress("base", step + 1, REPORTS, (step + 1) / REPORTS))
            store.renew(job_id, token)
            store.spooled(job_id, token, "a spool")
            keys = {name: f"jobs/{job_id}/attempt-{token}/0-{name}" for name in FILES}
            store.complete(job_id, token, [Output(0, number, keys)], Timings(queued=0.1, base=1.0, encode=0.1))
            message.ack()
            store.look(job_id)
        messages.close()
    queue.close()


def _idle(client: redis.Redis, settings: Settings, rounds: int = 300) -> float:
    """Microseconds of Redis a second for a worker that only looks: the reaper's round, a fifth of a sign of life."""
    store, queue = JobStore(connect(settings)), JobQueue(settings)
    reaper = Reaper(store, queue, ageing=1e9)
    reaper.round()
    before = _counted(client)["cpu"]
    for number in range(rounds):
        reaper.round()
        if number % 5 == 0:
            store.announce_worker("a worker")
    used = _counted(client)["cpu"] - before
    queue.close()
    return 1e6 * used / rounds


def _ageing(client: redis.Redis, settings: Settings, looks: int = 20) -> float:
    """Microseconds for one look at a queue of 1000 messages, none of which is moved."""
    queue = JobQueue(settings)
    for number in range(1000):
        params = SamplingParams(seed=number)
        retention = timedelta(days=7)
        queue.enqueue(new_job("generate", "demo", params, priority="normal", metadata={}, retention=retention))
    before = _counted(client)["cpu"]
    for _ in range(looks):
        queue.age(1e9)
    used = _counted(client)["cpu"] - before
    queue.close()
    return 1e6 * used / looks


def _counted(client: redis.Redis) -> dict[str, float]:
    info: Any = client.info("everything")
    return {
        "commands": info["total_commands_processed"],
        "cpu": info["used_cpu_user"] + info["used_cpu_sys"],
        "memory": info["used_memory_dataset"],
        "disk": info["aof_current_size"],
    }


@contextmanager
def _redis(folder: Path) -> Iterator[str]:
    """As `duet serve` runs it: append-only file, each write flushed before it is answered."""
    command = [str(redis_program()), "--port", "0", "--unixsocket", "redis.sock", "--save", '""']
    command += ["--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    url = f"unix://{quote(str(folder / 'redis.sock'))}"
    try:
        while True:
            try:
                with redis.Redis.from_url(url) as client:
                    client.ping()
                break
            except redis.ConnectionError:
                time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(10)
