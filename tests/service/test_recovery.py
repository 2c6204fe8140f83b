"""Jobs whose worker is gone are woken again, and one that takes every worker with it is given up."""

from __future__ import annotations

import redis

from service.jobs.record import Job, Status
from service.jobs.store import JobStore
from service.recovery import STRIKES, Recovery
from service.settings import Settings
from tests.service.jobs import TIMINGS, a_job


def queued(store: JobStore) -> Job:
    job = a_job()
    store.create(job)
    return job


def running(store: JobStore) -> Job:
    job = store.claim(queued(store).id)
    assert job is not None
    return store.start(job.id, job.attempt)


def messages(settings: Settings) -> int:
    """How many wake-ups wait in the queue."""
    with redis.Redis.from_url(settings.redis_url) as client:
        lists = [key for key in client.scan_iter("duet*") if client.type(key) == b"list"]
        return sum(client.llen(key) for key in lists)


def test_every_job_that_has_not_ended_gets_a_message(settings: Settings, store: JobStore) -> None:
    queued(store)
    running(store)
    ended = queued(store)
    store.claim(ended.id)
    store.start(ended.id, 1)
    store.complete(ended.id, 1, [], TIMINGS)
    assert Recovery(settings).wake_all() == 2
    assert messages(settings) == 2


def test_the_job_that_ran_at_the_last_of_three_deaths_fails_and_the_waiting_one_goes_on(
    settings: Settings, store: JobStore
) -> None:
    recovery = Recovery(settings)
    poison, patient = running(store), queued(store)
    for death in range(1, STRIKES):
        assert recovery.after_death() == 2
        again = store.claim(poison.id)
        assert again is not None
        assert again.attempt == death + 1
    assert recovery.after_death() == 1
    failed = store.get(poison.id)
    assert failed.status is Status.FAILED
    assert failed.error is not None
    assert (failed.error.code, failed.error.attempt) == ("worker_died", STRIKES)
    assert store.get(patient.id).status is Status.QUEUED
