"""A Redis that refuses commands: real worker processes, and errors from Redis itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from service.jobs.connection import StoreUnavailable
from service.jobs.record import Status
from tests.conftest import RedisServer
from tests.redis_faults import FAULTS
from tests.waiting import until
from tests.workers.conftest import Stack
from tests.workers.fake import FakeWorker
from workers.fatal_exit import CONSUMER_FAILED

REFUSING_SECONDS = 6.0
JOBS = 6


@pytest.fixture
def stack(short_leases: Stack) -> Stack:
    return short_leases


@pytest.fixture
def worker(stack: Stack, tmp_path: Path) -> Iterator[FakeWorker]:
    worker = FakeWorker(stack.settings, tmp_path, step_seconds=0.2)
    until(lambda: worker.process.poll() is not None or stack.store.workers(), "the worker is there", 60)
    yield worker
    worker.stop()


@pytest.mark.parametrize(
    "fault", ["full", *(pytest.param(name, marks=pytest.mark.slow) for name in FAULTS if name != "full")]
)
def test_jobs_complete_after_redis_has_refused_writes(
    fault: str, stack: Stack, worker: FakeWorker, own_redis: RedisServer
) -> None:
    jobs = [stack.submit() for _ in range(JOBS)]
    until(lambda: any(stack.store.get(job.id).status is Status.IN_PROGRESS for job in jobs), "a job runs")
    with redis.Redis.from_url(own_redis.url) as client, FAULTS[fault](client):
        time.sleep(REFUSING_SECONDS)  # the length of the fault, not a wait for something
        assert worker.process.poll() is None, worker.log.read_text()
    for job in jobs:
        assert stack.ended(job).status is Status.COMPLETED
    assert worker.process.poll() is None
    assert stack.store.workers()
    assert stack.ended(stack.submit()).status is Status.COMPLETED


def test_a_worker_whose_consumer_fails_hands_its_jobs_back_and_exits(
    stack: Stack, worker: FakeWorker, own_redis: RedisServer, tmp_path: Path
) -> None:
    job = stack.submit()
    until(lambda: stack.store.get(job.id).status is Status.IN_PROGRESS, "it runs")
    with redis.Redis.from_url(own_redis.url) as client:
        client.lpush("duet", b"not a message")  # Celery has no answer to it but to stop
    assert worker.process.wait(20) == CONSUMER_FAILED, worker.log.read_text()
    with suppress(StoreUnavailable):
        assert stack.store.workers() == []
    record = stack.store.get(job.id)
    assert (record.status, record.strikes) == (Status.QUEUED, 0)
    successor = FakeWorker(stack.settings, tmp_path)
    try:
        assert stack.ended(job).status is Status.COMPLETED
    finally:
        successor.stop()
