"""RabbitMQ as the broker: real workers and a real RabbitMQ, both of them killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from amqp.exceptions import NotFound
from kombu import Connection

from service.jobs.connection import connect
from service.jobs.queue import JobQueue, QueueUnavailable, celery_config
from service.jobs.reaper import Reaper
from service.jobs.record import Status, new_job_id
from service.jobs.store import JobStore
from service.settings import Settings
from tests.rabbitmq import RabbitServer, installed
from tests.service.new_jobs import a_job
from tests.waiting import until
from tests.workers.conftest import Stack
from tests.workers.fake import FakeWorker

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not installed(), reason="there is no program rabbitmq-server here"),
]

LEASE = 2.0
StartWorker = Callable[[], FakeWorker]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    server = RabbitServer(tmp_path_factory.mktemp("rabbit"))
    server.start()
    yield server
    server.close()


@pytest.fixture
def rabbit(server: RabbitServer) -> RabbitServer:
    """Running, and empty."""
    with Connection(server.url) as connection, suppress(NotFound):
        connection.default_channel.queue_purge("duet")
    return server


@pytest.fixture
def stack(redis_url: str, rabbit: RabbitServer, tmp_path: Path) -> Iterator[Stack]:
    stack = Stack(Settings(redis_url=redis_url, broker_url=rabbit.url, data=tmp_path / "data", lease=LEASE))  # type: ignore[arg-type]
    stack.store = JobStore(connect(stack.settings), LEASE)
    yield stack
    stack.queue.close()


@pytest.fixture
def start_worker(stack: Stack, tmp_path: Path) -> Iterator[StartWorker]:
    with ExitStack() as workers:

        def start() -> FakeWorker:
            worker = FakeWorker(stack.settings, tmp_path, step_seconds=0.1)
            workers.callback(worker.stop)
            known = set(stack.store.workers())
            until(lambda: set(stack.store.workers()) - known, "the worker is there")
            return worker

        yield start


@pytest.fixture
def queue(stack: Stack) -> JobQueue:
    return stack.queue


def taken(settings: Settings, count: int) -> list[str]:
    """The ids in the messages that RabbitMQ gives out next, in its order."""
    config = celery_config(settings)
    with Connection(config["broker_url"]) as connection:
        channel = connection.default_channel
        found = []
        for _ in range(count):
            message = until(lambda: channel.basic_get("duet", no_ack=True), "a message")
            found.append(message.headers["id"])
        assert channel.basic_get("duet") is None, "there are more"
    return found


def healthy(settings: Settings) -> bool:
    """What the health check of a worker's container says."""
    own = {"DUET_REDIS_URL": settings.redis_url, "DUET_BROKER_URL": settings.broker_address}
    command = [sys.executable, "-m", "service.healthcheck", "worker"]
    return subprocess.run(command, env={**os.environ, **own}, check=False).returncode == 0


def test_jobs_complete_and_leave_nothing_in_the_queue(stack: Stack, start_worker: StartWorker) -> None:
    before = [stack.submit(seed=number) for number in range(3)]
    assert stack.queue.waiting() == {job.id for job in before}
    worker = start_worker()
    done = [stack.ended(job) for job in (*before, stack.submit(seed=9))]
    assert [(job.status, job.attempt) for job in done] == [(Status.COMPLETED, 1)] * 4
    assert all(stack.files(job) for job in done)
    until(lambda: stack.queue.waiting() == set(), "no message is left")
    assert healthy(stack.settings), "its consumer answers through RabbitMQ, as health checks want"
    assert worker.stop() == 0
    assert taken(stack.settings, 0) == []
    with redis.Redis.from_url(stack.settings.redis_url) as client:
        assert [key for key in client.keys("*") if b"duet:" not in key] == [], "Celery keeps nothing in Redis"


def test_urgent_jobs_are_delivered_first_and_equal_ones_in_order(queue: JobQueue, stack: Stack) -> None:
    interrupted = replace(a_job(priority="low"), attempt=1)
    jobs = [*(a_job(priority=name) for name in ("low", "normal", "high", "normal", "high")), interrupted]
    for job in jobs:
        queue.enqueue(job)
    assert taken(stack.settings, len(jobs)) == [jobs[index].id for index in (5, 2, 4, 1, 3, 0)]


def test_a_job_that_waits_gets_one_message_of_higher_priority(
    queue: JobQueue, stack: Stack, rabbit: RabbitServer
) -> None:
    """60 s are worth one priority, as in Redis' lists; the message from before stays, and finds nothing to do."""
    now = time.time()
    ages = [("low", 130), ("low", 70), ("normal", 65), ("normal", 0), ("high", 500), ("low", 0)]
    jobs = [a_job(priority=name, job_id=new_job_id(now - age)) for name, age in ages]
    for job in jobs:
        queue.enqueue(job)
    other = JobQueue(stack.settings)  # of another worker's reaper
    for each in (queue, other, queue):
        each.age(60)
    other.close()
    order = taken(stack.settings, len(jobs) + 3)
    assert order == [jobs[index].id for index in (4, 0, 2, 2, 3, 1, 0, 1, 5)]


def test_a_worker_that_is_killed_loses_no_job(stack: Stack, start_worker: StartWorker) -> None:
    first = start_worker()
    jobs = [stack.submit(seed=number) for number in range(2)]
    until(lambda: any(stack.store.get(job.id).holder for job in jobs), "one runs")
    first.process.kill()
    start_worker()
    done = [stack.ended(job) for job in jobs]
    assert {job.status for job in done} == {Status.COMPLETED}
    assert sorted(job.attempt for job in done) == [1, 2]


@pytest.mark.timed
def test_a_restart_keeps_the_messages_and_a_running_job_continues(
    stack: Stack, start_worker: StartWorker, rabbit: RabbitServer
) -> None:
    worker = start_worker()
    jobs = [stack.submit(seed=number) for number in range(4)]
    until(lambda: any(stack.store.get(job.id).holder for job in jobs), "one runs")
    rabbit.kill()
    began = time.monotonic()
    with pytest.raises(QueueUnavailable):
        stack.queue.enqueue(jobs[0])
    assert time.monotonic() - began < 5
    rabbit.start()
    done = [stack.ended(job) for job in jobs]
    assert [(job.status, job.attempt) for job in done] == [(Status.COMPLETED, 1)] * 4, "none was begun anew"
    assert stack.ended(stack.submit()).status is Status.COMPLETED
    assert worker.process.poll() is None, worker.log.read_text()


def test_a_rabbitmq_that_lost_its_disk_loses_no_job(
    stack: Stack, start_worker: StartWorker, rabbit: RabbitServer
) -> None:
    jobs = [stack.submit(seed=number) for number in range(3)]
    rabbit.stop()
    rabbit.forget()
    rabbit.start()
    start_worker()
    done = [stack.ended(job) for job in jobs]
    assert [(job.status, job.attempt) for job in done] == [(Status.COMPLETED, 1)] * 3


def test_an_existing_message_is_not_sent_again(stack: Stack) -> None:
    job = stack.submit()
    until(stack.store.without_message, "it should have been claimed by now")
    reaper = Reaper(stack.store, stack.queue)
    for _ in range(3):
        reaper.wake()
    assert taken(stack.settings, 1) == [job.id]


def test_a_lost_message_is_sent_again(stack: Stack) -> None:
    job = stack.submit()
    assert taken(stack.settings, 1) == [job.id], "as a worker would that dies before it notes so"
    until(stack.store.without_message, "it should have been claimed by now")
    Reaper(stack.store, stack.queue).wake()
    assert stack.queue.waiting() == {job.id}
    assert taken(stack.settings, 1) == [job.id]
