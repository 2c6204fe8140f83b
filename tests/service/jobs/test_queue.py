from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from kombu import Connection
from kombu.simple import SimpleQueue

from service.jobs.queue import RUN_JOB, JobQueue, QueueUnavailable, broker_url, celery_config
from service.jobs.record import made_at, new_job_id
from service.settings import Settings
from tests.conftest import RedisServer
from tests.service.new_jobs import a_job


@contextmanager
def reading(settings: Settings) -> Iterator[SimpleQueue]:
    """The other end of the queue."""
    options = celery_config(settings)["broker_transport_options"]
    with Connection(broker_url(settings.redis_url), transport_options=options) as connection:
        queue = connection.SimpleQueue("duet")
        yield queue
        queue.close()


def test_the_message_names_the_task_and_carries_the_id(queue: JobQueue, settings: Settings) -> None:
    job = a_job()
    queue.enqueue(job)
    with reading(settings) as messages:
        message = messages.get(timeout=5)
    assert message.headers["task"] == RUN_JOB
    arguments, keywords, _ = message.payload
    assert (arguments, keywords) == ([job.id], {})


def test_urgent_jobs_are_delivered_first_and_equal_ones_in_order(queue: JobQueue, settings: Settings) -> None:
    jobs = [a_job(priority=name) for name in ("low", "normal", "high", "normal", "high", "low")]
    for job in jobs:
        queue.enqueue(job)
    with reading(settings) as messages:
        order = [messages.get(timeout=5).payload[0][0] for _ in jobs]
    assert order == [jobs[index].id for index in (2, 4, 1, 3, 0, 5)]


def test_waiting_raises_the_priority_so_no_job_starves(queue: JobQueue, settings: Settings) -> None:
    """60 s are worth one priority: low for 130 s is high by now, low for 70 s and normal count alike."""
    now = time.time()
    ages = [("low", 130), ("low", 70), ("normal", 65), ("normal", 0), ("high", 0), ("low", 0)]
    jobs = [a_job(priority=name, job_id=new_job_id(now - age)) for name, age in ages]
    for job in jobs:
        queue.enqueue(job)
    queue.age(60)
    queue.age(60)  # once more changes nothing
    with reading(settings) as messages:
        order = [messages.get(timeout=5).payload[0][0] for _ in jobs]
    assert order == [jobs[index].id for index in (4, 2, 0, 3, 1, 5)]


def test_requeued_jobs_are_delivered_first(queue: JobQueue, settings: Settings) -> None:
    new, interrupted = a_job(priority="high"), replace(a_job(priority="low"), attempt=1)
    queue.enqueue(new)
    queue.enqueue(interrupted)
    with reading(settings) as messages:
        assert [messages.get(timeout=5).payload[0][0] for _ in range(2)] == [interrupted.id, new.id]


@pytest.mark.timed
def test_a_silent_redis_times_out_within_seconds(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, as a host that hangs may
        queue = JobQueue(Settings(redis_url=f"redis://127.0.0.1:{silent.getsockname()[1]}/0", data=tmp_path))
        for ask in (queue.waiting, lambda: queue.enqueue(a_job())):
            began = time.monotonic()
            with pytest.raises(QueueUnavailable):
                ask()
            assert time.monotonic() - began < 10


@pytest.mark.timed
def test_an_absent_redis_is_noticed_quickly_and_its_return_too(own_redis: RedisServer, tmp_path: Path) -> None:
    settings = Settings(redis_url=own_redis.url, data=tmp_path)
    queue = JobQueue(settings)
    queue.enqueue(a_job())
    own_redis.stop()
    began = time.monotonic()
    with pytest.raises(QueueUnavailable):
        queue.enqueue(a_job())
    assert time.monotonic() - began < 2
    own_redis.start()
    job = a_job()
    queue.enqueue(job)
    queue.close()
    with reading(settings) as messages:
        ids = [messages.get(timeout=5).payload[0][0] for _ in range(messages.qsize())]
    assert job.id in ids


@pytest.mark.parametrize(
    ("redis_url", "for_celery"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("rediss://me:pw@redis.example:6380/2", "rediss://me:pw@redis.example:6380/2?ssl_cert_reqs=required"),
        ("rediss://h/0?ssl_ca_certs=/ca.pem", "rediss://h/0?ssl_ca_certs=/ca.pem&ssl_cert_reqs=required"),
        ("rediss://h/0?ssl_cert_reqs=none", "rediss://h/0?ssl_cert_reqs=none"),
        ("unix:///run/redis.sock", "redis+socket:///run/redis.sock?virtual_host=0"),
        ("unix:///run/a%20b/redis.sock?db=3", "redis+socket:///run/a%20b/redis.sock?virtual_host=3"),
        ("unix://:pw@/run/redis.sock", "redis+socket://:pw@/run/redis.sock?virtual_host=0"),
    ],
)
def test_redis_addresses_as_celery_writes_them(redis_url: str, for_celery: str) -> None:
    assert broker_url(redis_url) == for_celery


def test_an_id_contains_its_creation_time() -> None:
    assert made_at(new_job_id(1_700_000_000.25)) == 1_700_000_000.25
