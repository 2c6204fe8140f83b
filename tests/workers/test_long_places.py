"""Long jobs leave a slot of every worker to short ones, and none of them is lost or counted as a failure for that."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from service.jobs.connection import StoreUnavailable
from service.jobs.record import Job, Status
from tests.chaos.worker import BEHAVIOUR, LONG
from tests.waiting import until
from tests.workers.conftest import Stack
from tests.workers.fake import FakeWorker, parts
from workers import long_places
from workers.long_places import LongPlaces
from workers.runner import BackInQueue, Runner


@pytest.mark.parametrize(("slots", "most"), [(1, 1), (2, 1), (3, 2), (4, 3), (5, 4), (8, 6), (20, 15)])
def test_at_least_one_of_several_slots_is_for_short_jobs(slots: int, most: int) -> None:
    places = LongPlaces(slots)
    assert places.most == most
    assert [places.take(str(number)) for number in range(most + 1)] == [True] * most + [False]


def test_places_go_to_the_jobs_that_wait_in_their_order() -> None:
    places = LongPlaces(2)
    assert places.take("first")
    assert not any([places.take("second"), places.take("third"), places.take("second")])
    assert places.next() is None, "there is no place"
    places.leave()
    assert places.next() == "second"
    assert places.take("second")
    assert places.next() is None
    places.leave()
    assert places.take("third"), "its message came by another way"
    places.leave()
    assert places.next() is None, "nobody waits"


def test_many_waiting_jobs_are_offered_less_often() -> None:
    places = LongPlaces(2)
    assert places.retry == long_places.RETRY
    for number in range(201):
        places.take(str(number))
    assert places.retry == 20


@pytest.fixture
def worker(short_leases: Stack, tmp_path: Path) -> Iterator[FakeWorker]:
    """A real worker with two slots, whose jobs take about a quarter of a second."""
    worker = FakeWorker(short_leases.settings, tmp_path, 0.05)
    yield worker
    worker.stop()


def _times(folder: Path, jobs: list[Job]) -> list[tuple[float, float]]:
    """When each of `jobs` began and was made."""
    notes = [json.loads(line) for line in (folder / "ledger").read_text().splitlines()]
    at = {(note["job"], note["what"]): note["at"] for note in notes}
    return [(at[job.id, "begin"], at[job.id, "made"]) for job in jobs]


def test_short_jobs_overtake_long_ones_that_would_take_every_slot(
    short_leases: Stack, worker: FakeWorker, tmp_path: Path
) -> None:
    stack = short_leases
    long = [stack.submit(duration=2 * LONG) for _ in range(4)]
    short = [stack.submit() for _ in range(2)]
    ended = [stack.ended(job) for job in (*long, *short)]
    assert {(job.status, job.attempt, job.strikes) for job in ended} == {(Status.COMPLETED, 1, 0)}
    spans = sorted(_times(tmp_path, long))
    assert all(made <= begins for (_, made), (begins, _) in pairwise(spans)), "one at a time"
    assert max(made for _, made in _times(tmp_path, short)) < spans[-1][1], "short ones need not wait for all long ones"


def test_a_waiting_job_is_offered_to_other_workers(short_leases: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reaper sends its message, should this worker never have a place."""
    monkeypatch.setattr(long_places, "RETRY", 0.2)
    stack = short_leases
    busy, other = (parts(stack, slots=2)[0] for _ in range(2))
    assert busy._long_places.take("another long job")
    job = stack.create(duration=2 * LONG)
    busy.run(job.id)
    waiting = stack.store.get(job.id)
    assert (waiting.status, waiting.holder, waiting.attempt) == (Status.QUEUED, None, 0)
    until(lambda: stack.store.without_message() == [job.id], "its message is due")
    other.run(job.id)
    assert stack.store.get(job.id).status is Status.COMPLETED


def test_the_thread_that_frees_a_place_runs_the_job_that_waits_for_it(short_leases: Stack) -> None:
    stack = short_leases
    runner, woken = _with_wake(stack)
    cancelled, waiting = (stack.create(duration=2 * LONG) for _ in range(2))
    assert runner._long_places.take("another long job")
    for job in (cancelled, waiting):
        runner.run(job.id)
    stack.store.request_cancel(cancelled.id)
    runner._long_places.leave()
    runner.run(stack.create(duration=2 * LONG).id)
    ends = [stack.store.get(job.id).status for job in (cancelled, waiting)]
    assert ends == [Status.CANCELED, Status.COMPLETED]
    assert woken == []


def test_a_waiting_job_that_another_thread_has_in_hand_is_not_lost(short_leases: Stack) -> None:
    """Its thread found no place, and looks again when the job waits."""
    stack = short_leases
    runner, _ = _with_wake(stack)
    job = stack.create(duration=2 * LONG)
    assert runner._long_places.take("another long job")
    runner.run(job.id)
    runner._in_hand.add(job.id)
    runner._long_places.leave()
    runner.run(stack.create(duration=2 * LONG).id)
    assert stack.store.get(job.id).status is Status.QUEUED
    runner._in_hand.remove(job.id)
    runner.run(stack.create().id)
    assert stack.store.get(job.id).status is Status.COMPLETED


def test_a_waiting_job_that_goes_back_gets_a_message_of_its_own(short_leases: Stack) -> None:
    """The job whose message brought the thread has ended well, so nothing is raised."""
    stack = short_leases
    runner, woken = _with_wake(stack)
    job = stack.create(duration=2 * LONG, metadata={BEHAVIOUR: "raise"})
    assert runner._long_places.take("another long job")
    runner.run(job.id)
    runner._long_places.leave()
    runner.run(stack.create(duration=2 * LONG).id)
    assert woken == [job.id]
    assert (stack.store.get(job.id).status, stack.store.get(job.id).strikes) == (Status.QUEUED, 1)


def test_an_unexpected_error_of_a_waiting_job_is_not_that_of_the_job_before(
    short_leases: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = short_leases
    runner, woken = _with_wake(stack)
    job, after = (stack.create(duration=2 * LONG) for _ in range(2))
    assert runner._long_places.take("another long job")
    for each in (job, after):
        runner.run(each.id)
    runner._long_places.leave()
    wait_for_room = runner._wait_for_room

    def fail(job_id: str) -> None:
        if job_id == job.id:
            raise OSError("the disk is gone")
        wait_for_room(job_id)

    monkeypatch.setattr(runner, "_wait_for_room", fail)
    runner.run(stack.create(duration=2 * LONG).id)
    assert woken == [job.id]
    assert stack.store.get(after.id).status is Status.COMPLETED


def test_the_next_job_that_still_waits_gets_the_message(short_leases: Stack) -> None:
    stack = short_leases
    runner, woken = _with_wake(stack)
    cancelled, waiting = (stack.create(duration=2 * LONG) for _ in range(2))
    fails = stack.create(duration=2 * LONG, metadata={BEHAVIOUR: "raise"})
    assert runner._long_places.take("another long job")
    for job in (cancelled, waiting):
        runner.run(job.id)
    stack.store.request_cancel(cancelled.id)
    runner._long_places.leave()
    with pytest.raises(BackInQueue):
        runner.run(fails.id)
    assert woken == [cancelled.id, waiting.id]


@pytest.mark.parametrize("away", [False, True])
def test_a_job_that_goes_back_does_not_wait_for_the_one_that_gets_its_place(short_leases: Stack, away: bool) -> None:
    stack = short_leases
    runner, woken = _with_wake(stack, away)
    waiting, fails = stack.create(duration=2 * LONG), stack.create(duration=2 * LONG, metadata={BEHAVIOUR: "raise"})
    assert runner._long_places.take("another long job")
    runner.run(waiting.id)
    runner._long_places.leave()
    with pytest.raises(BackInQueue, match="strike 1"):
        runner.run(fails.id)
    assert woken == [waiting.id]
    assert stack.store.get(waiting.id).status is Status.QUEUED


def test_after_ten_minutes_a_waiting_job_gets_a_message(short_leases: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.runner.LONGEST_TURN", 0.0)
    stack = short_leases
    runner, woken = _with_wake(stack)
    job = stack.create(duration=2 * LONG)
    assert runner._long_places.take("another long job")
    runner.run(job.id)
    runner._long_places.leave()
    runner.run(stack.create(duration=2 * LONG).id)
    assert (woken, stack.store.get(job.id).attempt) == ([job.id], 0)


def test_nothing_that_waits_begins_while_the_worker_stops(short_leases: Stack) -> None:
    stack = short_leases
    runner, _ = _with_wake(stack)
    job = stack.create(duration=2 * LONG)
    assert runner._long_places.take("another long job")
    runner.run(job.id)
    runner._long_places.leave()
    runner.stop()
    with pytest.raises(BackInQueue):
        runner.run(stack.create().id)
    assert stack.store.get(job.id).attempt == 0


def _with_wake(stack: Stack, away: bool = False) -> tuple[Runner, list[str]]:
    """A runner with two slots, and the jobs whose messages it sends; while Redis is `away` it cannot."""
    runner, woken = parts(stack, slots=2)[0], []

    def wake(job_id: str) -> bool:
        woken.append(job_id)
        if away:
            raise StoreUnavailable("away")
        return stack.store.get(job_id).status is Status.QUEUED

    runner._wake = wake
    return runner, woken
