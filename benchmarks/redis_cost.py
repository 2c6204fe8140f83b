"""Cost of a job in Redis: the real store, queue and claim protocol against a real Redis that flushes every write.

Redis uses one core, so its CPU time per job bounds the job rate of a whole installation.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import redis
from celery import Celery

from model.request import SamplingParams
from service.jobs.connection import connect
from service.jobs.queue import QUEUE, JobQueue, celery_config
from service.jobs.reaper import Reaper
from service.jobs.record import Output, Progress, Timings, new_job
from service.jobs.store import JobStore
from service.settings import Settings
from tests.conftest import RedisServer
from workers import transport

REPORTS = 20
"""Progress reports per job: one per step, none of them throttled."""

FILES = ("video.mp4", "audio.wav", "poster.webp", "spectrogram.png", "manifest.json")


@dataclass(frozen=True)
class RedisCost:
    """Counters of Redis (INFO), and the job rate reached by clients on the same machine.

    `bytes_per_job` is the memory until the job expires, `bytes_per_job_at_first` that with its events, which expire an
    hour after its end.
    """

    clients: int
    commands_per_job: float
    microseconds_per_job: float
    bytes_per_job: float
    bytes_per_job_at_first: float
    disk_bytes_per_job: float
    jobs_per_s_reached: float
    microseconds_per_idle_worker_s: float
    microseconds_per_ageing_of_1000: float

    @property
    def jobs_per_s_ceiling(self) -> float:
        """Limit of the job rate, from the CPU time per job."""
        return 1e6 / self.microseconds_per_job


def measure(jobs: int, clients: int) -> RedisCost:
    """Run `jobs` jobs in `clients` processes, then measure the periodic commands of an idle worker."""
    with tempfile.TemporaryDirectory(prefix="duet-benchmark-") as name, ExitStack() as stack:
        server = RedisServer(Path(name))
        server.start()
        stack.callback(server.stop)
        settings = Settings(redis_url=server.url, data=Path(name) / "data")
        with redis.Redis.from_url(server.url) as client:
            client.config_set("auto-aof-rewrite-percentage", 0)
            _jobs(server.url, 20)  # loads scripts and touches memory pages
            client.delete(*client.scan_iter("duet:events:*", 1000))
            before = _counted(client)
            began = time.perf_counter()
            processes = [
                multiprocessing.Process(target=_jobs, args=(server.url, jobs // clients)) for _ in range(clients)
            ]
            for process in processes:
                process.start()
            for process in processes:
                process.join()
            if any(process.exitcode for process in processes):
                raise SystemExit("a client failed: nothing was measured")
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
    """Submit and run jobs sequentially, with the commands that the API and a worker send to Redis."""
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
    """Microseconds of Redis per second for an idle worker: a reaper round per second, an announcement every five."""
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
    """Microseconds for one ageing pass over a queue of 1000 messages, none of which moves."""
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
