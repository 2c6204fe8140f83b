from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.jobs import record
from service.jobs.record import IllegalTransition, Job, JobError, StaleClaim, Status, new_job_id
from tests.service.new_jobs import OUTPUT, TIMINGS, UPLOAD, a_job

ERROR = JobError("out_of_memory", "the model needs more memory", True, 1)


def test_a_job_goes_from_queued_through_in_progress_to_completed() -> None:
    job = a_job()
    assert (job.status, job.attempt) == (Status.QUEUED, 0)
    job = record.claim(job, "w")
    assert (job.status, job.attempt) == (Status.QUEUED, 1)  # picked up is not running
    job = record.start(job, 1)
    assert job.status is Status.IN_PROGRESS
    assert job.started_at is not None
    job = record.complete(job, 1, (OUTPUT,), TIMINGS)
    assert job.status is Status.COMPLETED
    assert job.outputs == (OUTPUT,)
    assert job.timings == TIMINGS
    assert job.created_at <= job.started_at <= job.completed_at  # type: ignore[operator]


def test_a_claimed_job_can_fail_before_and_after_the_engine_began() -> None:
    claimed = record.claim(a_job(), "w")
    for job in (claimed, record.start(claimed, 1)):
        failed = record.fail(job, 1, ERROR)
        assert (failed.status, failed.error) == (Status.FAILED, ERROR)


def test_a_requeued_job_can_be_claimed_again_and_the_first_claim_is_void() -> None:
    first = record.start(record.claim(a_job(), "w"), 1)
    second = record.claim(record.abandon(first, 1), "v")
    assert second.attempt == 2
    for late in (
        lambda: record.start(second, 1),
        lambda: record.complete(second, 1, (OUTPUT,), TIMINGS),
        lambda: record.fail(second, 1, ERROR),
        lambda: record.hand_back(second, 1),
        lambda: record.strike(second, 1, ERROR),
        lambda: record.abandon(second, 1),
        lambda: record.spooled(second, 1, "disk"),
    ):
        with pytest.raises(StaleClaim):
            late()
    assert record.complete(record.start(second, 2), 2, (OUTPUT,), TIMINGS).status is Status.COMPLETED


def test_a_held_job_can_be_claimed_only_by_its_holder_without_effect() -> None:
    held = record.claim(a_job(), "w")
    with pytest.raises(IllegalTransition):
        record.claim(held, "v")
    assert record.claim(held, "w") == held


def test_a_released_attempt_is_stale_before_the_next_claim() -> None:
    given_up = record.abandon(record.start(record.claim(a_job(), "w"), 1), 1)
    with pytest.raises(StaleClaim):
        record.complete(given_up, 1, (OUTPUT,), TIMINGS)


def test_a_queued_job_is_cancelled_at_once_a_running_one_when_its_worker_stops() -> None:
    for waiting in (a_job(), record.claim(a_job(), "w")):
        assert record.cancel(waiting).status is Status.CANCELED
    asked = record.cancel(record.start(record.claim(a_job(), "w"), 1))
    assert asked.status is Status.IN_PROGRESS
    assert asked.cancel_requested_at is not None
    assert record.cancel(asked) == asked
    for end in (record.stopped(asked, 1), record.hand_back(asked, 1), record.abandon(asked, 1)):
        assert end.status is Status.CANCELED
        assert end.completed_at is not None
    assert record.complete(asked, 1, (OUTPUT,), TIMINGS).status is Status.COMPLETED


def test_a_job_is_stopped_only_after_a_cancel_request() -> None:
    with pytest.raises(IllegalTransition):
        record.stopped(record.start(record.claim(a_job(), "w"), 1), 1)


def test_a_hand_back_is_no_strike() -> None:
    job = a_job()
    for attempt in range(1, 10):
        job = record.hand_back(record.start(record.claim(job, "w"), attempt), attempt)
    assert (job.status, job.strikes, job.alone, job.attempt) == (Status.QUEUED, 0, False, 9)
    assert job.started_at is None


def test_the_death_of_a_worker_with_several_jobs_is_no_strike() -> None:
    job = record.abandon(record.start(record.claim(a_job(), "w"), 1), 1)
    assert (job.status, job.strikes, job.alone) == (Status.QUEUED, 0, True)


def test_a_job_fails_when_its_worker_died_three_times_while_it_ran_alone() -> None:
    job = record.abandon(record.claim(a_job(), "w"), 1)
    for attempt in (2, 3, 4):
        assert job.status is Status.QUEUED
        job = record.abandon(record.start(record.claim(job, "w"), attempt), attempt)
    assert (job.status, job.strikes, job.attempt) == (Status.FAILED, 3, 4)
    assert job.error is not None
    assert (job.error.code, job.error.attempt) == ("worker_died", 4)
    assert "3 times" in job.error.message


def test_a_job_that_raises_is_retried_and_fails_with_its_error_at_the_third_strike() -> None:
    job = a_job()
    for attempt in (1, 2, 3):
        assert job.status is Status.QUEUED
        job = record.strike(record.start(record.claim(job, "w"), attempt), attempt, ERROR)
    assert (job.status, job.error) == (Status.FAILED, ERROR)


def test_a_commit_can_be_repeated_with_its_token() -> None:
    running = record.start(record.claim(a_job(), "w"), 1)
    assert record.start(running, 1) == running
    done = record.complete(running, 1, (OUTPUT,), TIMINGS)
    assert record.complete(done, 1, (OUTPUT,), TIMINGS) == done
    failed = record.fail(running, 1, ERROR)
    assert record.fail(failed, 1, ERROR) == failed
    back = record.hand_back(running, 1)
    assert record.hand_back(back, 1) == back
    struck = record.strike(running, 1, ERROR)
    assert record.strike(struck, 1, ERROR) == struck
    stopped = record.stopped(record.cancel(running), 1)
    assert record.stopped(stopped, 1) == stopped


def test_nobody_holds_a_job_that_was_never_claimed() -> None:
    with pytest.raises(StaleClaim):
        record.start(a_job(), 0)


def test_a_job_does_not_complete_before_it_started() -> None:
    with pytest.raises(IllegalTransition):
        record.complete(record.claim(a_job(), "w"), 1, (OUTPUT,), TIMINGS)


@pytest.mark.parametrize("end", ["completed", "failed", "canceled"])
def test_an_ended_job_does_not_change(end: str) -> None:
    running = record.start(record.claim(a_job(), "w"), 1)
    job = {
        "completed": lambda: record.complete(running, 1, (OUTPUT,), TIMINGS),
        "failed": lambda: record.fail(running, 1, ERROR),
        "canceled": lambda: record.stopped(record.cancel(running), 1),
    }[end]()
    other = replace(ERROR, code="another")
    for change in (
        lambda: record.claim(job, "w"),
        lambda: record.start(job, 1),
        lambda: record.complete(job, 1, (), TIMINGS),
        lambda: record.fail(job, 1, other),
        lambda: record.cancel(job),
        lambda: record.hand_back(job, 1),
        lambda: record.strike(job, 1, ERROR),
        lambda: record.abandon(job, 1),
    ):
        with pytest.raises(IllegalTransition):
            change()


def test_a_job_is_kept_for_its_retention() -> None:
    job = a_job(retention=timedelta(hours=3))
    assert job.expires_at - job.created_at == timedelta(hours=3)


@given(
    metadata=st.dictionaries(st.text(max_size=64), st.text(max_size=512), max_size=16),
    filename=st.text(max_size=255),
    attempt=st.integers(0, 1000),
)
def test_the_record_survives_json(metadata: dict[str, str], filename: str, attempt: int) -> None:
    job = replace(a_job("v2a", metadata=metadata), input=replace(UPLOAD, filename=filename), attempt=attempt)
    finished = replace(job, status=Status.COMPLETED, outputs=(OUTPUT,), timings=TIMINGS, error=ERROR)
    assert Job.from_json(job.to_json()) == job
    assert Job.from_json(finished.to_json()) == finished


def test_a_record_of_a_newer_version_can_be_read() -> None:
    job = a_job()
    data = json.loads(job.to_json())
    data["lease"] = "2030-01-01"
    data["params"]["temperature"] = 0.5
    assert Job.from_json(json.dumps(data)) == job


def test_ids_sort_by_time_and_do_not_repeat() -> None:
    ids = [new_job_id(1_700_000_000 + second / 1000) for second in range(500)]
    assert ids == sorted(ids)
    same_moment = [new_job_id(1_700_000_000) for _ in range(1000)]
    assert len(set(same_moment)) == 1000
    assert same_moment == sorted(same_moment)
    assert all(len(name) == len("job_") + 26 for name in same_moment)


def test_an_id_carries_its_time_as_a_ulid_does() -> None:
    # 2016-07-30T23:54:10.259Z is the example of the ULID specification: 01ARYZ6S41…
    assert new_job_id(1469918176.385).startswith("job_01ARYZ6S41")


def test_each_attempt_has_its_own_storage_keys() -> None:
    first = record.claim(a_job(), "w")
    second = record.claim(record.hand_back(first, 1), "w")
    assert first.attempt_key("video.mp4") == f"jobs/{first.id}/attempt-1/video.mp4"
    assert second.attempt_key("video.mp4") == f"jobs/{first.id}/attempt-2/video.mp4"
