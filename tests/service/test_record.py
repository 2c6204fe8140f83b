from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.jobs import record
from service.jobs.record import IllegalTransition, Job, JobError, StaleClaim, Status, new_job_id
from tests.service.jobs import OUTPUT, TIMINGS, UPLOAD, a_job

ERROR = JobError("out_of_memory", "the model needs more memory", True, 1)


def test_a_job_goes_from_queued_over_in_progress_to_completed() -> None:
    job = a_job()
    assert (job.status, job.attempt) == (Status.QUEUED, 0)
    job = record.claim(job)
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
    claimed = record.claim(a_job())
    for job in (claimed, record.start(claimed, 1)):
        failed = record.fail(job, 1, ERROR)
        assert (failed.status, failed.error) == (Status.FAILED, ERROR)


def test_a_running_job_can_be_claimed_again_and_the_first_claim_is_void() -> None:
    first = record.start(record.claim(a_job()), 1)
    second = record.claim(first)
    assert second.attempt == 2
    for late in (
        lambda: record.start(second, 1),
        lambda: record.complete(second, 1, (OUTPUT,), TIMINGS),
        lambda: record.fail(second, 1, ERROR),
    ):
        with pytest.raises(StaleClaim):
            late()
    assert record.complete(record.start(second, 2), 2, (OUTPUT,), TIMINGS).status is Status.COMPLETED


def test_nobody_holds_a_job_that_was_never_claimed() -> None:
    with pytest.raises(StaleClaim):
        record.start(a_job(), 0)


def test_a_job_does_not_complete_before_it_started() -> None:
    with pytest.raises(IllegalTransition):
        record.complete(record.claim(a_job()), 1, (OUTPUT,), TIMINGS)


@pytest.mark.parametrize("end", ["completed", "failed"])
def test_what_has_ended_stays_as_it_ended(end: str) -> None:
    running = record.start(record.claim(a_job()), 1)
    job = record.complete(running, 1, (OUTPUT,), TIMINGS) if end == "completed" else record.fail(running, 1, ERROR)
    for change in (
        lambda: record.claim(job),
        lambda: record.start(job, 1),
        lambda: record.complete(job, 1, (OUTPUT,), TIMINGS),
        lambda: record.fail(job, 1, ERROR),
    ):
        with pytest.raises(IllegalTransition):
            change()


def test_a_job_is_kept_for_the_retention() -> None:
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


def test_attempts_write_to_places_of_their_own() -> None:
    first = record.claim(a_job())
    second = record.claim(first)
    assert first.attempt_key("video.mp4") == f"jobs/{first.id}/attempt-1/video.mp4"
    assert second.attempt_key("video.mp4") == f"jobs/{first.id}/attempt-2/video.mp4"
