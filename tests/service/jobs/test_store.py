from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from service.jobs.connection import StoreUnavailable, connect, connect_async
from service.jobs.record import IllegalTransition, Job, JobError, Progress, StaleClaim, Status, UnreadableRecord
from service.jobs.records import UnknownJob
from service.jobs.store import JobStore
from service.settings import Settings
from tests.conftest import RedisServer
from tests.service.new_jobs import OUTPUT, TIMINGS, a_job
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


def overtake(store: JobStore, job: Job) -> None:
    """The reaper takes the job away, and another worker claims it."""
    assert store.abandon(job.id, known_dead=True) is not None
    assert store.claim(job.id, "another") is not None


def test_a_job_is_found_as_it_was_written(store: JobStore) -> None:
    job = a_job(metadata={"scene": "beach"})
    store.create(job)
    assert store.get(job.id) == job
    with pytest.raises(UnknownJob):
        store.get("job_00000000000000000000000000")


def test_each_claim_is_a_new_attempt(store: JobStore) -> None:
    job = a_job()
    store.create(job)
    for attempt in (1, 2, 3):
        claimed = store.claim(job.id, "w")
        assert claimed is not None
        assert claimed.attempt == attempt
        store.hand_back(job.id, attempt)


def test_one_of_simultaneous_claims_wins(store: JobStore) -> None:
    job = a_job()
    store.create(job)
    claims = at_once(*[lambda name=name: store.claim(job.id, f"worker-{name}") for name in range(12)])
    assert [claim.attempt for claim in claims if claim] == [1]


def test_an_ended_or_erased_job_cannot_be_claimed(store: JobStore) -> None:
    job = a_job()
    store.create(job)
    store.claim(job.id, "w")
    store.fail(job.id, 1, ERROR)
    assert store.claim(job.id, "w") is None
    store.erase(job.id)
    assert store.claim(job.id, "w") is None


def test_an_overtaken_attempt_can_change_nothing(store: JobStore) -> None:
    job = a_job()
    store.create(job)
    store.claim(job.id, "w")
    store.start(job.id, 1)
    overtake(store, job)
    for late in (
        lambda: store.start(job.id, 1),
        lambda: store.renew(job.id, 1),
        lambda: store.hand_back(job.id, 1),
        lambda: store.progress(job.id, 1, STEP),
        lambda: store.complete(job.id, 1, [OUTPUT], TIMINGS),
        lambda: store.fail(job.id, 1, ERROR),
    ):
        with pytest.raises(StaleClaim):
            late()
    assert store.get(job.id).attempt == 2
    assert store.look(job.id).progress is None


def test_one_of_simultaneous_results_is_committed(store: JobStore) -> None:
    job = a_job()
    store.create(job)
    store.claim(job.id, "w")
    store.start(job.id, 1)
    ends = [lambda: store.complete(job.id, 1, [OUTPUT], TIMINGS), lambda: store.fail(job.id, 1, ERROR)] * 4
    results = at_once(*ends)
    assert sum(isinstance(result, IllegalTransition) for result in results) == 4
    committed = [result for result in results if not isinstance(result, Exception)]
    assert committed == [store.get(job.id)] * 4


def test_a_commit_whose_answer_was_lost_counts(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client sends a command again when the connection broke before the answer came."""
    job = a_job()
    store.create(job)
    store.claim(job.id, "w")
    store.start(job.id, 1)
    send = store._commit

    def sent_twice(**arguments: Any) -> Any:
        send(**arguments)
        return send(**arguments)

    monkeypatch.setattr(store, "_commit", sent_twice)
    done = store.complete(job.id, 1, [OUTPUT], TIMINGS)
    assert done == store.get(job.id)
    assert done.status is Status.COMPLETED


def test_progress_is_that_of_the_current_attempt(store: JobStore) -> None:
    job = a_job()
    store.create(job)
    assert store.look(job.id).progress is None
    store.claim(job.id, "w")
    store.start(job.id, 1)
    store.progress(job.id, 1, STEP)
    assert store.look(job.id).progress == STEP
    overtake(store, job)
    assert store.look(job.id).progress is None
    store.start(job.id, 2)
    store.progress(job.id, 2, Progress("sr", 1, 8, 0.9))
    assert store.look(job.id).progress == Progress("sr", 1, 8, 0.9, None)
    store.complete(job.id, 2, [OUTPUT], TIMINGS)
    assert store.look(job.id).progress is None
    with pytest.raises(StaleClaim):
        store.progress(job.id, 2, STEP)


def test_progress_does_not_change_the_record(store: JobStore) -> None:
    job = a_job()
    store.create(job)
    store.claim(job.id, "w")
    before = store.start(job.id, 1)
    store.progress(job.id, 1, STEP)
    assert store.get(job.id) == before


def test_the_queue_position_counts_urgent_jobs_and_not_running_ones(store: JobStore) -> None:
    low, normal, later, high = (a_job(priority=name) for name in ("low", "normal", "normal", "high"))
    for job in (low, normal, later, high):
        store.create(job)
    order = (high, normal, later, low)
    assert [store.look(job.id).queue_position for job in order] == [0, 1, 2, 3]
    store.claim(high.id, "w")
    assert store.look(high.id).queue_position == 0
    store.start(high.id, 1)
    assert [store.look(job.id).queue_position for job in order] == [None, 0, 1, 2]
    store.erase(normal.id)
    assert [seen.queue_position for seen in store.snapshots(order)] == [None, None, 0, 1]
    store.claim(low.id, "w")
    store.hand_back(low.id, 1)
    assert [store.look(job.id).queue_position for job in (low, later)] == [0, 1]


def test_the_queue_position_takes_ageing_into_account(store: JobStore) -> None:
    """Five minutes are worth one priority, so an old job of low priority goes before a new one of normal."""
    now = datetime.now(UTC)
    old, new = a_job(priority="low"), a_job(priority="normal")
    old = replace(old, created_at=now - timedelta(minutes=6))
    for job in (old, new):
        store.create(job)
    assert [store.look(job.id).queue_position for job in (old, new)] == [0, 1]


def test_pages_list_newest_first_and_filter(store: JobStore) -> None:
    jobs = [a_job(kind, owner=owner) for owner in ("ann", "bob") for kind in ("generate", "v2a", "a2v", "v2a")]
    for job in jobs:
        store.create(job)
    newest = [job.id for job in reversed(jobs)]

    def ids(**filters: Any) -> list[str]:
        found, after = [], None
        while True:
            page, after = store.page(**filters, after=after, limit=3)
            found += [job.id for job in page]
            if after is None:
                return found
            assert len(page) == 3

    assert ids() == newest
    assert ids(owner="ann") == newest[4:]
    assert ids(kind="v2a") == [newest[0], newest[2], newest[4], newest[6]]
    store.claim(jobs[1].id, "w")
    store.start(jobs[1].id, 1)
    assert ids(status=Status.IN_PROGRESS) == ids(status=Status.IN_PROGRESS, owner="ann", kind="v2a") == [jobs[1].id]
    assert ids(status=Status.IN_PROGRESS, owner="bob") == []
    assert ids(status=Status.QUEUED) == [each for each in newest if each != jobs[1].id]
    assert (store.count_queued(), store.count_queued("ann"), store.count_queued("carol")) == (7, 3, 0)
    assert store.page(limit=8)[1] is None


def test_a_cancel_reaches_the_worker_with_its_next_step_or_renewal(store: JobStore) -> None:
    job = a_job()
    store.create(job)
    store.claim(job.id, "w")
    store.start(job.id, 1)
    assert store.renew(job.id, 1) is False
    assert store.progress(job.id, 1, STEP) is False
    assert store.request_cancel(job.id).status is Status.IN_PROGRESS
    assert store.renew(job.id, 1) is True
    assert store.progress(job.id, 1, STEP) is True
    assert store.cancelled(job.id, 1).status is Status.CANCELED


def test_a_cancelled_job_leaves_the_queue(store: JobStore) -> None:
    job = a_job()
    store.create(job)
    assert store.request_cancel(job.id).status is Status.CANCELED
    assert store.look(job.id).queue_position is None
    assert store.claim(job.id, "w") is None
    with pytest.raises(IllegalTransition):
        store.request_cancel(job.id)


def test_an_expired_lease_can_be_renewed_until_the_job_is_claimed_again(store: JobStore) -> None:
    short = JobStore(store._redis, lease=0.05)
    job = a_job()
    short.create(job)
    short.claim(job.id, "w")
    until(lambda: short.leases_run_out() == [job.id], "the lease ran out")
    store.renew(job.id, 1)
    assert store.leases_run_out() == []
    assert store.abandon(job.id) is None
    short.renew(job.id, 1)
    until(short.leases_run_out, "the lease ran out again")
    abandoned = store.abandon(job.id)
    assert abandoned is not None
    assert (abandoned.status, abandoned.alone) == (Status.QUEUED, True)
    with pytest.raises(StaleClaim):
        store.renew(job.id, 1)
    assert store.abandon(job.id) is None
    assert store.without_message() == [job.id]


def test_the_jobs_of_a_dead_worker_can_be_taken_at_once(store: JobStore) -> None:
    jobs = [a_job() for _ in range(3)]
    for job, holder in zip(jobs, ("w", "v", "w"), strict=True):
        store.create(job)
        store.claim(job.id, holder)
    assert {job.id for job in store.held("w")} == {jobs[0].id, jobs[2].id}
    assert store.abandon(jobs[0].id, known_dead=True) is not None
    assert [job.id for job in store.held("w")] == [jobs[2].id]


def test_an_unclaimed_job_needs_another_message_after_a_while(store: JobStore) -> None:
    short = JobStore(store._redis, lease=0.2)
    claimed, forgotten = a_job(), a_job()
    for job in (claimed, forgotten):
        short.create(job)
    assert short.without_message() == []
    short.claim(claimed.id, "w")
    until(lambda: short.without_message() == [forgotten.id], "only one waits for nothing")
    store.expect_claims([claimed.id, forgotten.id])
    assert store.without_message() == []


def test_the_oldest_jobs_expire_first(store: JobStore) -> None:
    jobs = [a_job(retention=timedelta(milliseconds=milliseconds)) for milliseconds in (20, 1, 60_000)]
    for job in jobs:
        store.create(job)
        store.request_cancel(job.id)
    # Retention counts from the end of a job, so on a busy machine the one with more of it can be due first.
    first, second = sorted((job.id for job in jobs[:2]), key=lambda job_id: store.get(job_id).expires_at)
    until(lambda: store.expired() == [first, second], "the retention of two is over")
    store.erase(first)
    assert store.expired() == [second]


def test_an_erased_job_is_remembered_for_the_given_time(store: JobStore) -> None:
    jobs = [a_job(owner="ann"), a_job(), a_job()]
    for job in jobs:
        store.create(job)
    store.erase(jobs[0].id, timedelta(minutes=1))
    store.erase(jobs[1].id, timedelta(milliseconds=10))
    store.erase(jobs[2].id)
    assert store.erased_owner(jobs[0].id) == "ann"
    until(lambda: store.erased_owner(jobs[1].id) is None, "it is forgotten")
    assert store.erased_owner(jobs[2].id) is None


def test_an_erased_job_leaves_nothing(store: JobStore, redis_url: str) -> None:
    job = a_job()
    store.create(job)
    store.claim(job.id, "w")
    store.start(job.id, 1)
    store.progress(job.id, 1, STEP)
    store.erase(job.id)
    store.erase(job.id)
    with redis.Redis.from_url(redis_url) as client:
        assert client.keys("duet:*") == []


def test_a_worker_is_listed_while_its_heartbeat_is_valid(store: JobStore) -> None:
    store.announce_worker("a", 60)
    store.announce_worker("b", 0.2)
    assert store.workers() == ["a", "b"]
    until(lambda: store.workers() == ["a"], "b is taken for dead")
    store.forget_worker("a")
    assert store.workers() == []


def test_accepted_jobs_survive_a_killed_redis(own_redis: RedisServer, tmp_path: Path) -> None:
    store = JobStore(connect(Settings(redis_url=own_redis.url, data=tmp_path)))
    jobs = [a_job() for _ in range(20)]
    for job in jobs:
        store.create(job)
    own_redis.kill()
    with pytest.raises(StoreUnavailable):
        store.get(jobs[0].id)
    own_redis.start()
    assert [store.get(job.id) for job in jobs] == jobs


def test_a_full_redis_is_unavailable(store: JobStore, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.config_set("maxmemory", "1")
        try:
            with pytest.raises(StoreUnavailable):
                store.create(a_job())
        finally:
            client.config_set("maxmemory", "0")


@pytest.mark.parametrize("parameter", [("maxmemory", "1", "0"), ("min-replicas-to-write", "1", "0")])
def test_a_redis_that_refuses_writes_is_unavailable(
    store: JobStore, redis_url: str, parameter: tuple[str, str, str]
) -> None:
    name, broken, whole = parameter
    job = a_job()
    store.create(job)
    with redis.Redis.from_url(redis_url) as client:
        client.config_set(name, broken)
        try:
            for write in (lambda: store.create(a_job()), lambda: store.claim(job.id, "w")):
                with pytest.raises(StoreUnavailable):
                    write()
            if name != "maxmemory":  # a full Redis still erases
                with pytest.raises(StoreUnavailable):
                    store.erase(job.id)
        finally:
            client.config_set(name, whole)


def test_a_replica_refuses_writes_and_is_unavailable(own_redis: RedisServer, tmp_path: Path) -> None:
    store = JobStore(connect(Settings(redis_url=own_redis.url, data=tmp_path)))
    with redis.Redis.from_url(own_redis.url) as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(StoreUnavailable):
            store.create(a_job())
        client.execute_command("REPLICAOF", "NO", "ONE")
    store.create(a_job())


def test_a_redis_that_is_busy_with_a_script_is_unavailable(own_redis: RedisServer, tmp_path: Path) -> None:
    store = JobStore(connect(Settings(redis_url=own_redis.url, data=tmp_path)))
    with redis.Redis.from_url(own_redis.url) as client:
        client.config_set("lua-time-limit", 50)

        def spin() -> None:
            with redis.Redis.from_url(own_redis.url) as other, contextlib.suppress(redis.RedisError):
                other.eval("while true do end", 0)

        thread = threading.Thread(target=spin)
        thread.start()
        until(lambda: _busy(client), "the script runs")
        try:
            with pytest.raises(StoreUnavailable):
                store.create(a_job())
        finally:
            client.script_kill()
            thread.join()


def test_commands_wait_for_a_connection_when_all_are_in_use(settings: Settings) -> None:
    """Hundreds of clients that follow one job ask at the same moment."""

    async def ask(count: int) -> list[object]:
        async with connect_async(settings) as client:
            return await asyncio.gather(*(client.time() for _ in range(count)))

    assert len(asyncio.run(ask(300))) == 300


def _busy(client: redis.Redis) -> bool:
    try:
        client.ping()
    except redis.RedisError:
        return True
    return False


def test_an_unreadable_record_affects_no_other_job(store: JobStore) -> None:
    good, broken, newer = a_job(), a_job(), a_job()
    for job in (good, broken, newer):
        store.create(job)
    store._redis.set(f"duet:job:{broken.id}", broken.to_json().replace('"queued"', '"paused"'))
    store._redis.set(f"duet:job:{newer.id}", newer.to_json().replace('"schema":1', '"schema":99'))
    for job in (broken, newer):
        with pytest.raises(UnreadableRecord):
            store.get(job.id)
        with pytest.raises(UnreadableRecord):
            store.look(job.id)
        assert store.claim(job.id, "w") is None
        assert store.abandon(job.id) is None
    assert store.page() == ([good], None)
    assert store._redis.scard("duet:unreadable") == 2


def test_progress_and_deliveries_that_cannot_be_read_are_left_out(store: JobStore) -> None:
    """As after a rollback to a version before another field was added."""
    job = a_job()
    store.create(job)
    store._redis.hset(f"duet:job:{job.id}:attempt", mapping={"attempt": 1, "stage": "base", "step": "x"})
    for entry in ("noise", "[]", '{"at": null, "next_attempt_at": null, "new": 1}'):
        store._redis.rpush(f"duet:webhooks:log:{job.id}", entry)
    for snapshot in (store.look(job.id), *store.snapshots([job])):
        assert (snapshot.progress, snapshot.deliveries) == (None, ())


def test_leases_and_heartbeats_do_not_outlast_a_clock_that_goes_back(store: JobStore) -> None:
    """What Redis holds after its clock went back nine minutes."""
    short = JobStore(store._redis, lease=0.2)
    job = a_job()
    short.create(job)
    short.claim(job.id, "w")
    store.announce_worker("w")
    ahead = datetime.now(UTC).timestamp() + 540
    store._redis.zadd("duet:leases", {job.id: 1000 * ahead})
    store._redis.zadd("duet:workers", {"w": ahead})
    assert store.workers() == []
    assert short.leases_run_out() == []
    until(lambda: short.leases_run_out() == [job.id], "the lease ran out within a lease")
    assert short.abandon(job.id) is not None


def test_a_job_without_its_model_waits_and_fails_in_the_end(store: JobStore) -> None:
    job = a_job()
    store.create(job)
    waiting = store.model_missing(job.id, timedelta(hours=1))
    assert (waiting.status, waiting.strikes, waiting.attempt) == (Status.QUEUED, 0, 0)
    assert waiting.model_missing_since is not None
    assert store.without_message() == [], "no tight loop: the next message is sent seconds later"
    claimed = store.claim(job.id, "w")
    assert claimed is not None
    assert claimed.model_missing_since is None
    store.hand_back(job.id, 1)
    failed = store.model_missing(job.id, timedelta(0))
    assert failed.status is Status.FAILED
    assert failed.error == JobError("model_unavailable", failed.error.message if failed.error else "", True, 1)


def test_many_jobs_are_seen_in_one_round_trip(store: JobStore) -> None:
    jobs = [a_job() for _ in range(20)]
    for job in jobs:
        store.create(job)
    before = store._redis.info("stats")["total_reads_processed"]
    assert [seen.queue_position for seen in store.snapshots(jobs)] == list(range(20))
    assert store._redis.info("stats")["total_reads_processed"] - before <= 3
