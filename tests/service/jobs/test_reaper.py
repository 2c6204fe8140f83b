"""The reaper requeues jobs of dead workers and jobs that lost their message."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.jobs.connection import StoreUnavailable, connect
from service.jobs.queue import JobQueue
from service.jobs.reaper import Reaper
from service.jobs.record import SPOOL, Job, Status
from service.jobs.store import JobStore
from service.settings import Settings
from tests.conftest import RedisServer
from tests.service.new_jobs import a_job
from tests.waiting import until

LEASE = 0.3

DROPS_A_MESSAGE = """
import os, sys
from celery import Celery
from kombu.transport.redis import QoS
from service.jobs.queue import QUEUE, celery_config
from service.settings import Settings

# The transport takes the message off the list (BRPOP), then writes down that it did: this process dies in between.
QoS.append = lambda *arguments: os._exit(9)
celery = Celery()
celery.conf.update(celery_config(Settings(redis_url=sys.argv[1])))
with celery.connection_for_read() as connection:
    connection.SimpleQueue(QUEUE).get(timeout=20)
"""


@pytest.fixture
def store(settings: Settings) -> JobStore:
    return JobStore(connect(settings), LEASE)


@pytest.fixture
def reaper(store: JobStore, queue: JobQueue) -> Iterator[Reaper]:
    until(lambda: store.uptime() > LEASE, "Redis is up for a lease")
    reaper = Reaper(store, queue)
    yield reaper
    reaper.stop()


def submitted(store: JobStore, queue: JobQueue) -> Job:
    job = a_job()
    store.create(job)
    queue.enqueue(job)
    return job


def test_a_message_that_the_transport_drops_is_sent_again(
    store: JobStore, queue: JobQueue, reaper: Reaper, settings: Settings
) -> None:
    job = submitted(store, queue)
    assert queue.waiting() == {job.id}
    dead = subprocess.run([sys.executable, "-c", DROPS_A_MESSAGE, settings.redis_url], timeout=60)
    assert dead.returncode == 9
    assert queue.waiting() == set(), "the message is lost: not in the queue, nor written down as taken"
    until(store.without_message, "it should have been claimed by now")
    reaper.round()
    assert queue.waiting() == {job.id}
    assert store.claim(job.id, "w") is not None


def test_a_job_whose_api_died_before_it_sent_the_message_gets_one(
    store: JobStore, queue: JobQueue, reaper: Reaper
) -> None:
    job = a_job()
    store.create(job)
    until(store.without_message, "it should have been claimed by now")
    reaper.round()
    assert queue.waiting() == {job.id}


def test_any_number_of_reapers_send_one_message_for_a_job_that_waits(
    store: JobStore, queue: JobQueue, reaper: Reaper, settings: Settings
) -> None:
    job = submitted(store, queue)
    for _ in range(3):
        until(store.without_message, "nobody claims it")
        reaper.round()
        Reaper(store, queue).round()
    with connect(settings) as client:
        assert sum(client.llen(key) for key in client.keys("duet*") if client.type(key) == b"list") == 1
    assert queue.waiting() == {job.id}


def test_the_jobs_of_a_dead_worker_are_requeued(store: JobStore, queue: JobQueue, reaper: Reaper) -> None:
    job = a_job()
    store.create(job)
    store.claim(job.id, "w")
    store.start(job.id, 1)
    reaper.round()
    assert store.get(job.id).holder == "w", "its lease is good"
    until(store.leases_run_out, "the lease has run out")
    reaper.round()
    record = store.get(job.id)
    assert (record.status, record.holder, record.alone, record.strikes) == (Status.QUEUED, None, True, 0)
    assert queue.waiting() == {job.id}


def test_reapers_at_the_same_moment_count_one_strike(store: JobStore, queue: JobQueue, reaper: Reaper) -> None:
    job = a_job()
    store.create(job)
    store.claim(job.id, "w", alone=True)
    until(store.leases_run_out, "the lease has run out")
    threads = [threading.Thread(target=Reaper(store, queue).round) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.get(job.id).strikes == 1


def test_after_a_restart_of_redis_live_workers_have_one_lease_to_renew(own_redis: RedisServer, tmp_path: Path) -> None:
    settings = Settings(redis_url=own_redis.url, data=tmp_path)
    store, queue = JobStore(connect(settings), 1.5), JobQueue(settings)
    job = a_job()
    store.create(job)
    store.claim(job.id, "w")
    own_redis.stop()
    reaper = Reaper(store, queue)
    with pytest.raises(StoreUnavailable):
        reaper.round()
    time.sleep(1.6)  # the lease runs out while Redis is away: time itself is what is tested
    own_redis.start()
    assert store.leases_run_out() == [job.id]
    reaper.round()
    assert store.get(job.id).holder == "w"
    store.renew(job.id, 1)
    assert store.leases_run_out() == []
    queue.close()


def test_a_worker_known_to_be_dead_is_not_waited_for(store: JobStore, queue: JobQueue, reaper: Reaper) -> None:
    jobs = [a_job() for _ in range(3)]
    for job, holder in zip(jobs, ("host-1-aa", "host-12-bb", f"host{SPOOL}"), strict=True):
        store.create(job)
        store.claim(job.id, holder)
    reaper.worker_died("host-1-")
    assert [store.get(job.id).holder is None for job in jobs] == [True, False, False]
    assert reaper.nobody_works() == 3  # all of them are still to be done, one of them only to be uploaded
    assert [store.get(job.id).holder is None for job in jobs] == [True, True, False]
    assert [store.get(job.id).strikes for job in jobs] == [0, 0, 0]
    assert queue.waiting() == {jobs[0].id, jobs[1].id}


def test_the_reaper_runs_rounds_until_it_is_stopped(store: JobStore, queue: JobQueue, reaper: Reaper) -> None:
    reaper.start()
    job = a_job()
    store.create(job)
    until(lambda: queue.waiting() == {job.id}, "it is noticed")
    reaper.stop()


def test_the_reaper_survives_any_error(store: JobStore, queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[str] = []
    reaper = Reaper(store, queue, failed=failures.append)
    leases_run_out = JobStore.leases_run_out

    def fails_once(self: JobStore, limit: int = 100) -> list[str]:
        if not failures:
            raise ValueError("unknown")
        return leases_run_out(self, limit)

    monkeypatch.setattr(JobStore, "leases_run_out", fails_once)
    until(lambda: store.uptime() > LEASE, "Redis is up for a lease")
    job = a_job()
    store.create(job)
    reaper.start()
    until(lambda: queue.waiting() == {job.id}, "a later round sends the message")
    reaper.stop()
    assert failures == ["reaper"]


@pytest.mark.parametrize("record", [b"{}", b'{"id": "\xff"}'], ids=["missing fields", "not UTF-8"])
def test_a_record_that_cannot_be_read_does_not_stop_the_reaper(
    store: JobStore, queue: JobQueue, reaper: Reaper, record: bytes
) -> None:
    broken, good = a_job(), a_job()
    for job in (broken, good):
        store.create(job)
        store.claim(job.id, "w")
    store._redis.set(f"duet:job:{broken.id}", record)
    until(lambda: len(store.leases_run_out()) == 2, "the leases have run out")
    reaper.round()
    assert store.get(good.id).holder is None
    assert queue.waiting() == {good.id}


def test_leases_without_a_job_do_not_hide_the_others(store: JobStore, queue: JobQueue, reaper: Reaper) -> None:
    job = a_job()
    store.create(job)
    store.claim(job.id, "w")
    store._redis.zadd("duet:leases", {f"job_{number}": number for number in range(150)})
    until(lambda: store._redis.zcount("duet:leases", "-inf", 1000 * time.time()) == 151, "the leases have run out")
    reaper.round()
    reaper.round()
    assert store.get(job.id).holder is None


@pytest.mark.parametrize("message", [b"noise", b"{}", b'{"headers": {"id": "x"}, "properties": {"priority": 6}}'])
def test_a_foreign_message_does_not_stop_the_reaper(
    store: JobStore, queue: JobQueue, reaper: Reaper, message: bytes
) -> None:
    for name in ("duet", "duet\x06\x166"):
        store._redis.lpush(name, message)
    job = a_job()
    store.create(job)
    queue.age(1)

    def sent() -> bool:
        reaper.round()
        return queue.waiting() == {job.id}

    until(sent, "the message is sent")
