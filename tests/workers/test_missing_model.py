"""Jobs whose model no worker has: they wait, say so, and fail when the patience is over."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest

from service.jobs.record import Status
from service.settings import Settings
from tests.conftest import RunningApi
from tests.waiting import until
from tests.workers.conftest import Stack, WorkerProcess


@pytest.fixture
def api(stack: Stack, run_api: Callable[[Settings], RunningApi]) -> RunningApi:
    return run_api(stack.settings)


def shown(api: RunningApi, job_id: str) -> dict[str, Any]:
    job: dict[str, Any] = httpx.get(f"{api.url}/jobs/{job_id}").json()
    return job


def wrong_folder(stack: Stack, **changes: Any) -> Settings:
    """Settings whose folder of models is empty, as after a mistyped mount."""
    folder = stack.settings.data.parent / "modles"
    folder.mkdir()
    return stack.settings.model_copy(update={"models": folder, **changes})


@pytest.mark.timed
def test_jobs_outlast_a_restart_with_the_wrong_folder_of_models(
    stack: Stack, api: RunningApi, start_worker: Callable[[], WorkerProcess]
) -> None:
    right = stack.settings
    stack.settings = wrong_folder(stack)
    worker = start_worker()
    jobs = [stack.submit(seed=seed).id for seed in (1, 2)]
    for job_id in jobs:
        job = until(lambda: (seen := shown(api, job_id))["waiting_for"] and seen, "it says what it waits for")  # noqa: B023
        assert (job["status"], job["attempt"], job["error"]) == ("queued", 0, None)
        assert job["waiting_for"]["code"] == "model_unavailable"
        assert "'tiny'" in job["waiting_for"]["message"]
        assert job["waiting_for"]["since"] >= job["created_at"]
    assert worker.stop() == 0

    stack.settings = right
    start_worker()
    for job_id in jobs:
        until(lambda: shown(api, job_id)["status"] == "completed", "it runs after all", 60)  # noqa: B023
        assert shown(api, job_id)["waiting_for"] is None


def test_a_job_fails_when_the_patience_is_over_and_can_be_retried(
    stack: Stack, api: RunningApi, start_worker: Callable[[], WorkerProcess]
) -> None:
    stack.settings = wrong_folder(stack, model_patience=timedelta(seconds=1))
    start_worker()
    job = stack.submit()
    ended = stack.ended(job)
    assert (ended.status, ended.strikes) == (Status.FAILED, 0)
    error = shown(api, job.id)["error"]
    assert (error["code"], error["retryable"]) == ("model_unavailable", True)
    assert shown(api, job.id)["waiting_for"] is None
    assert httpx.post(f"{api.url}/jobs/{job.id}/retry").status_code == 202
