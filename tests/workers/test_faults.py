"""Faults: real worker processes with a fake model, a real Redis, storage that becomes unavailable."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from service.jobs.record import SPOOL, Job, Status
from service.storage import FolderStorage, StorageUnavailable
from tests.chaos.worker import BEHAVIOUR
from tests.conftest import RedisServer
from tests.waiting import until
from tests.workers.conftest import Stack
from tests.workers.fake import FakeWorker, parts
from workers.fatal_exit import DEVICE_FAILED
from workers.runner import Runner

StartWorker = Callable[..., FakeWorker]


@pytest.fixture
def stack(short_leases: Stack) -> Stack:
    return short_leases


@pytest.fixture
def start(stack: Stack, tmp_path: Path) -> Iterator[StartWorker]:
    """Starts workers; returns when they are there."""
    with ExitStack() as workers:

        def start(step_seconds: float = 0.02, **changes: object) -> FakeWorker:
            known = set(stack.store.workers())
            worker = FakeWorker(stack.settings.model_copy(update=changes), tmp_path, step_seconds)
            workers.callback(worker.stop)
            until(lambda: worker.process.poll() is not None or set(stack.store.workers()) - known, "the worker", 60)
            return worker

        yield start


def submit(stack: Stack, behaviour: str = "") -> Job:
    job = stack.create()
    if behaviour:  # a new record in place of the first: the fake reads its part there
        stack.store.erase(job.id)
        job = replace(job, metadata={BEHAVIOUR: behaviour})
        stack.store.create(job)
    stack.queue.enqueue(job)
    return job


def runs(folder: Path, what: str = "begin") -> Counter[str]:
    """How often each job began, or was made."""
    lines = [json.loads(line) for line in (folder / "ledger").read_text().splitlines()]
    return Counter(line["job"] for line in lines if line["what"] == what)


def running(stack: Stack, job: Job) -> bool:
    return stack.store.get(job.id).status is Status.IN_PROGRESS


@pytest.mark.slow
def test_a_poison_job_fails_after_three_runs_alone_and_harms_no_other(
    stack: Stack, start: StartWorker, tmp_path: Path
) -> None:
    poison, beside = submit(stack, "poison"), submit(stack)
    worker = start(step_seconds=0.2)

    def over() -> bool:
        nonlocal worker
        if worker.process.poll() is not None:  # what runs workers starts them again
            worker = start(step_seconds=0.2)
        return all(stack.store.get(job.id).status.ended for job in (poison, beside))

    until(over, "both have ended", 90)
    record = stack.store.get(poison.id)
    assert (record.status, record.strikes) == (Status.FAILED, 3)
    assert record.error is not None
    assert record.error.code == "worker_died"
    assert runs(tmp_path)[poison.id] <= 4
    assert stack.store.get(beside.id).status is Status.COMPLETED
    assert stack.store.get(beside.id).strikes == 0
    assert worker.process.poll() is None
    assert stack.store.page(status=Status.FAILED)[0] == [record]


def test_a_device_that_hangs_ends_the_process_and_the_job_resumes(stack: Stack, start: StartWorker) -> None:
    job = submit(stack, "hang")
    worker = start(step_deadline=timedelta(seconds=1))
    assert worker.process.wait(30) == DEVICE_FAILED
    assert not stack.store.get(job.id).status.ended
    start()
    done = stack.ended(job)
    assert (done.status, done.attempt) == (Status.COMPLETED, 2)


def test_a_worker_that_is_stopped_in_a_long_step_hands_its_jobs_back_within_the_grace(
    stack: Stack, start: StartWorker
) -> None:
    jobs = [submit(stack) for _ in range(2)]
    worker = start(step_seconds=30, grace=timedelta(seconds=1))
    until(lambda: all(running(stack, job) for job in jobs), "both run")
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(10) == 0
    assert stack.store.workers() == []
    for job in jobs:
        waiting = stack.store.get(job.id)
        assert (waiting.status, waiting.strikes, waiting.alone) == (Status.QUEUED, 0, False)
    start()
    assert [stack.ended(job).attempt for job in jobs] == [2, 2]


@pytest.mark.slow
def test_a_running_job_survives_a_restart_of_redis(
    stack: Stack, start: StartWorker, own_redis: RedisServer, tmp_path: Path
) -> None:
    start(step_seconds=0.4)
    job = submit(stack)
    until(lambda: running(stack, job), "it runs")
    own_redis.kill()
    until(lambda: runs(tmp_path, "made")[job.id], "it is made while Redis is away", 30)
    own_redis.start()
    done = stack.ended(job)
    assert (done.status, done.attempt) == (Status.COMPLETED, 1)
    assert runs(tmp_path) == {job.id: 1}
    after = submit(stack)
    assert stack.ended(after).status is Status.COMPLETED


class Folder(FolderStorage):
    """A folder that can be away."""

    away = True

    def put_file(self, key: str, path: Path, content_type: str) -> None:
        if self.away:
            raise StorageUnavailable("nobody answers")
        super().put_file(key, path, content_type)


def test_a_result_waits_for_storage_and_is_not_made_again_even_by_the_next_worker(stack: Stack, tmp_path: Path) -> None:
    job = stack.create()
    storage = Folder(Path(stack.settings.storage_url))
    runner, first_leases, _ = parts(stack, storage=storage)
    runner.run(job.id)  # this worker ends here
    held = stack.store.get(job.id)
    assert held.status is Status.IN_PROGRESS
    assert held.holder is not None
    assert held.holder.endswith(SPOOL)
    assert first_leases.held() == []

    _, leases, spool = parts(stack, storage=storage)
    leases.start()
    spool.start()
    try:
        until(leases.held, "the next worker keeps the lease")
        until(lambda: not stack.store.leases_run_out(), "it is good")
        storage.away = False
        done = stack.ended(job)
    finally:
        spool.stop()
        leases.stop()
    assert (done.status, done.attempt) == (Status.COMPLETED, 1)
    assert runs(tmp_path, "made") == {job.id: 1}
    assert len(stack.files(job)) == 3
    assert list(stack.settings.spool.iterdir()) == []


def test_a_result_whose_job_is_gone_leaves_nothing(stack: Stack) -> None:
    job = stack.create()
    storage = Folder(Path(stack.settings.storage_url))
    parts(stack, storage=storage)[0].run(job.id)
    stack.store.erase(job.id)
    storage.away = False
    _, _, spool = parts(stack, storage=storage)
    spool.start()
    until(lambda: list(stack.settings.spool.iterdir()) == [], "the spool is empty")
    spool.stop()
    assert stack.files(job) == []


def test_a_commit_whose_answer_was_lost_keeps_the_files(stack: Stack) -> None:
    """Redis goes away between the commit and its answer; the result is delivered once more."""
    job = stack.create()
    storage = Folder(Path(stack.settings.storage_url))
    runner, _, spool = parts(stack, storage=storage)
    runner.run(job.id)
    storage.away = False
    (result,) = spool.waiting()
    for output in result.outputs:
        for key in output.files.values():
            storage.put_file(key, result.path(key), "video/mp4")
    done = stack.store.complete(job.id, result.token, list(result.outputs), result.timings)
    assert spool.deliver(result)
    assert stack.store.get(job.id) == done
    assert len(stack.files(job)) == 3


def test_a_suspect_job_waits_until_it_can_run_alone(stack: Stack, start: StartWorker, tmp_path: Path) -> None:
    suspect = stack.create()
    stack.store.claim(suspect.id, "a worker that died")
    stack.store.abandon(suspect.id, known_dead=True)
    others = [submit(stack) for _ in range(3)]
    stack.queue.enqueue(suspect)
    others += [submit(stack) for _ in range(3)]
    start(step_seconds=0.05)
    for job in (suspect, *others):
        assert stack.ended(job).status is Status.COMPLETED
    lines = [json.loads(line) for line in (tmp_path / "ledger").read_text().splitlines()]
    at = [number for number, line in enumerate(lines) if line["job"] == suspect.id]
    assert at[1] == at[0] + 1, "nothing began or ended while it ran"
    assert sum(line["what"] == "begin" for line in lines[: at[0]]) == sum(
        line["what"] == "made" for line in lines[: at[0]]
    )


def test_two_threads_of_a_worker_never_run_the_same_job(stack: Stack, start: StartWorker, tmp_path: Path) -> None:
    jobs = [stack.create() for _ in range(6)]
    for job in jobs:
        for _ in range(3):
            stack.queue.enqueue(job)
    start()
    for job in jobs:
        assert stack.ended(job).attempt == 1
    assert set(runs(tmp_path).values()) == {1}


def test_a_stopping_runner_claims_no_job(stack: Stack) -> None:
    job = stack.create()
    runner: Runner = parts(stack)[0]
    runner.stop()
    with pytest.raises(Exception, match="stops"):
        runner.run(job.id)
    assert stack.store.get(job.id).attempt == 0
