"""Long jobs leave a slot of every worker to short ones, and none of them is lost or counted as a failure for that."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from service.jobs.connection import StoreUnavailable
from service.jobs.record import Job, Status
from tests.chaos.worker import LONG
from tests.waiting import until
from tests.workers.conftest import Stack
from tests.workers.fake import FakeWorker, parts
from workers import long_places
from workers.long_places import LongPlaces


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


def test_the_place_of_a_job_goes_to_the_next_that_still_waits(short_leases: Stack) -> None:
    stack = short_leases
    woken: list[str] = []
    runner = parts(stack, slots=2)[0]
    cancelled, waiting = (stack.create(duration=2 * LONG) for _ in range(2))

    def wake(job_id: str) -> bool:
        woken.append(job_id)
        return job_id == waiting.id

    runner._wake = wake
    assert runner._long_places.take("another long job")
    for job in (cancelled, waiting):
        runner.run(job.id)
    runner._long_places.leave()
    runner.run(stack.create(duration=2 * LONG).id)
    assert woken == [cancelled.id, waiting.id]


def test_a_job_that_cannot_be_woken_now_does_not_fail_the_one_that_ends(short_leases: Stack) -> None:
    stack = short_leases
    runner = parts(stack, slots=2)[0]

    def wake(job_id: str) -> bool:
        raise StoreUnavailable("away")

    runner._wake = wake
    job = stack.create(duration=2 * LONG)
    assert runner._long_places.take("another long job")
    runner.run(stack.create(duration=2 * LONG).id)
    runner._long_places.leave()
    runner.run(job.id)
    assert stack.store.get(job.id).status is Status.COMPLETED
