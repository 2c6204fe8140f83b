from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from service.jobs.record import IllegalTransition, JobError, Progress, StaleClaim, Status
from service.jobs.store import JobStore, StoreUnavailable, UnknownJob, connect
from service.settings import Settings
from tests.conftest import RedisServer
from tests.service.jobs import OUTPUT, TIMINGS, a_job
from tests.waiting import until

STEP = Progress("base", 7, 20, 0.31, 4.2)
ERROR = JobError("internal_error", "it broke", True, 1)


def at_once(*actions: Callable[[], Any]) -> list[Any]:
    """Run all at the same moment, each in a thread; return what each returned or raised."""
    results: list[Any] = [None] * len(actions)
    barrier = threading.Barrier(len(actions))

    def run(number: int) -> None:
        barrier.wait()
        try:
            results[number] = actions[number]()
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(actions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_a_job_is_found_as_it_was_written(store: JobStore) -> None:
    job = a_job(metadata={"scene": "beach"})
    store.create(job)
    assert store.get(job.id) == job
    with pytest.raises(UnknownJob):
        store.get("job_00000000000000000000000000")


def test_each_claim_is_a_new_attempt(store: JobStore) -> None:
    job = a_job()
    store.create(job)
    claims = [store.claim(job.id) for _ in range(3)]
    assert [claim.attempt for claim in claims if claim] == [1, 2, 3]


def test_claims_at_the_same_moment_never_share_a_token(store: JobStore) -> None:
    job = a_job()
    store.create(job)
    claims = at_once(*[lambda: store.claim(job.id)] * 12)
    assert sorted(claim.attempt for claim in claims) == list(range(1, 13))


def test_there_is_nothing_to_claim_once_a_job_ended_or_is_gone(store: JobStore) -> None:
    job = a_job()
    store.create(job)
    store.claim(job.id)
    store.fail(job.id, 1, ERROR)
    assert store.claim(job.id) is None
    store.delete(job.id)
    assert store.claim(job.id) is None


def test_whoever_was_overtaken_can_change_nothing(store: JobStore) -> None:
    job = a_job()
    store.create(job)
    store.claim(job.id)
    store.start(job.id, 1)
    store.claim(job.id)
    for late in (
        lambda: store.start(job.id, 1),
        lambda: store.progress(job.id, 1, STEP),
        lambda: store.complete(job.id, 1, [OUTPUT], TIMINGS),
        lambda: store.fail(job.id, 1, ERROR),
    ):
        with pytest.raises(StaleClaim):
            late()
    assert store.get(job.id).attempt == 2
    assert store.progress_of(store.get(job.id)) is None


def test_of_all_results_that_come_at_once_one_is_committed(store: JobStore) -> None:
    job = a_job()
    store.create(job)
    store.claim(job.id)
    store.start(job.id, 1)
    ends = [lambda: store.complete(job.id, 1, [OUTPUT], TIMINGS), lambda: store.fail(job.id, 1, ERROR)] * 4
    results = at_once(*ends)
    assert sum(isinstance(result, IllegalTransition) for result in results) == 7
    assert store.get(job.id) in results


def test_a_commit_whose_answer_got_lost_counts(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client sends a command again when the connection broke before the answer came."""
    job = a_job()
    store.create(job)
    store.claim(job.id)
    store.start(job.id, 1)
    send = store._compare_and_set

    def sent_twice(**arguments: Any) -> Any:
        send(**arguments)
        return send(**arguments)

    monkeypatch.setattr(store, "_compare_and_set", sent_twice)
    done = store.complete(job.id, 1, [OUTPUT], TIMINGS)
    assert done == store.get(job.id)
    assert done.status is Status.COMPLETED


def test_progress_is_that_of_the_current_attempt(store: JobStore) -> None:
    job = a_job()
    store.create(job)
    assert store.progress_of(job) is None
    store.claim(job.id)
    store.start(job.id, 1)
    store.progress(job.id, 1, STEP)
    assert store.progress_of(job) == STEP
    store.claim(job.id)
    assert store.progress_of(job) is None
    store.start(job.id, 2)
    store.progress(job.id, 2, Progress("sr", 1, 8, 0.9))
    assert store.progress_of(job) == Progress("sr", 1, 8, 0.9, None)
    store.complete(job.id, 2, [OUTPUT], TIMINGS)
    assert store.progress_of(job) is None
    with pytest.raises(StaleClaim):
        store.progress(job.id, 2, STEP)


def test_progress_leaves_the_record_alone(store: JobStore) -> None:
    job = a_job()
    store.create(job)
    store.claim(job.id)
    before = store.start(job.id, 1)
    store.progress(job.id, 1, STEP)
    assert store.get(job.id) == before


def test_the_position_counts_urgent_jobs_first_and_running_ones_not(store: JobStore) -> None:
    low, normal, later, high = (a_job(priority=name) for name in ("low", "normal", "normal", "high"))
    for job in (low, normal, later, high):
        store.create(job)
    order = (high, normal, later, low)
    assert [store.queue_position(job) for job in order] == [0, 1, 2, 3]
    store.claim(high.id)
    assert store.queue_position(high) == 0
    store.start(high.id, 1)
    assert [store.queue_position(job) for job in order] == [None, 0, 1, 2]
    store.delete(normal.id)
    assert [store.queue_position(job) for job in order] == [None, None, 0, 1]


def test_unfinished_jobs_are_those_that_have_not_ended(store: JobStore) -> None:
    queued, running, ended = a_job(), a_job(), a_job()
    for job in (queued, running, ended):
        store.create(job)
    for job in (running, ended):
        store.claim(job.id)
        store.start(job.id, 1)
    store.complete(ended.id, 1, [OUTPUT], TIMINGS)
    assert {job.id for job in store.unfinished()} == {queued.id, running.id}


def test_an_erased_job_leaves_nothing(store: JobStore, redis_url: str) -> None:
    job = a_job()
    store.create(job)
    store.claim(job.id)
    store.start(job.id, 1)
    store.progress(job.id, 1, STEP)
    store.delete(job.id)
    store.delete(job.id)
    with redis.Redis.from_url(redis_url) as client:
        assert client.keys("duet:*") == []


def test_a_worker_is_there_as_long_as_it_gives_signs_of_life(store: JobStore) -> None:
    store.announce_worker("a", 60)
    store.announce_worker("b", 0.2)
    assert store.workers() == ["a", "b"]
    until(lambda: store.workers() == ["a"], "b is taken for dead")
    store.forget_worker("a")
    assert store.workers() == []


def test_what_was_accepted_is_there_after_redis_was_killed(own_redis: RedisServer, tmp_path: Path) -> None:
    store = JobStore(connect(Settings(redis_url=own_redis.url, data=tmp_path)))
    jobs = [a_job() for _ in range(20)]
    for job in jobs:
        store.create(job)
    own_redis.kill()
    with pytest.raises(StoreUnavailable):
        store.get(jobs[0].id)
    own_redis.start()
    assert [store.get(job.id) for job in jobs] == jobs


def test_a_redis_that_takes_no_writes_is_unavailable(store: JobStore, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.config_set("maxmemory", "1")
        try:
            with pytest.raises(StoreUnavailable):
                store.create(a_job())
        finally:
            client.config_set("maxmemory", "0")
