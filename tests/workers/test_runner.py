"""The fencing token at work: an attempt that was overtaken changes nothing that anybody sees."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from model.manifest import find_models
from model.pipeline import Pipeline
from service.jobs.record import Job, Status
from service.storage import FolderStorage, StorageUnavailable
from tests.waiting import until
from tests.workers.conftest import Stack
from workers.runner import HandedBack, Runner


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A model this small only loses by sharing its work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def pipelines(models: Path) -> dict[str, Pipeline]:
    return {"tiny": Pipeline.load(find_models(models)["tiny"], device="cpu")}


@pytest.fixture
def runner(stack: Stack, pipelines: dict[str, Pipeline]) -> Runner:
    return Runner(stack.store, stack.storage, pipelines, stack.settings.temporary)


class ClaimedDuringUpload(FolderStorage):
    """A folder that is slow enough for another worker to claim the job meanwhile."""

    def __init__(self, stack: Stack, job: Job) -> None:
        super().__init__(Path(stack.settings.storage_url))
        self.stack, self.job = stack, job
        self.stored: list[str] = []

    def put_file(self, key: str, path: Path, content_type: str) -> None:
        super().put_file(key, path, content_type)
        if not self.stored:
            assert self.stack.store.claim(self.job.id) is not None
        self.stored.append(key)


class FullFolder(FolderStorage):
    """A store that takes reads and deletions, but no writes."""

    def put_file(self, key: str, path: Path, content_type: str) -> None:
        raise StorageUnavailable("the disk is read-only")


def test_a_stale_token_commits_nothing_and_its_files_go(stack: Stack, pipelines: dict[str, Pipeline]) -> None:
    job = stack.create()
    storage = ClaimedDuringUpload(stack, job)
    Runner(stack.store, storage, pipelines, stack.settings.temporary).run(job.id)
    assert storage.stored
    assert stack.files(job) == []
    record = stack.store.get(job.id)
    assert record.attempt == 2
    assert not record.status.ended
    assert record.outputs == ()


def test_the_attempt_that_overtook_completes(stack: Stack, pipelines: dict[str, Pipeline], runner: Runner) -> None:
    job = stack.create()
    Runner(stack.store, ClaimedDuringUpload(stack, job), pipelines, stack.settings.temporary).run(job.id)
    runner.run(job.id)
    record = stack.store.get(job.id)
    assert (record.status, record.attempt) == (Status.COMPLETED, 3)
    assert all("/attempt-3/" in key for key in stack.files(job))
    assert len(stack.files(job)) == 3


def test_an_attempt_notices_at_its_next_report_that_it_was_overtaken(stack: Stack, runner: Runner) -> None:
    job = stack.create(steps=1000)
    thread = threading.Thread(target=runner.run, args=[job.id])
    thread.start()
    until(lambda: stack.store.progress_of(job), "the first step is reported")
    assert stack.store.claim(job.id) is not None
    thread.join(5)
    assert not thread.is_alive()
    assert stack.files(job) == []
    assert not stack.store.get(job.id).status.ended


def test_a_stopping_runner_lets_the_job_go_between_two_steps(
    stack: Stack, runner: Runner, pipelines: dict[str, Pipeline]
) -> None:
    job = stack.create(steps=30)
    raised: list[BaseException] = []

    def run() -> None:
        try:
            runner.run(job.id)
        except HandedBack as reason:
            raised.append(reason)

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: stack.store.progress_of(job), "the first step is reported")
    runner.stop()
    thread.join(5)
    assert raised
    with pytest.raises(HandedBack):
        runner.run(job.id)
    assert stack.store.get(job.id).attempt == 1
    Runner(stack.store, stack.storage, pipelines, stack.settings.temporary).run(job.id)
    assert stack.store.get(job.id).status is Status.COMPLETED


def test_progress_rises_to_one_and_names_the_stages(stack: Stack, pipelines: dict[str, Pipeline]) -> None:
    seen = []

    class Watched(type(stack.store)):  # type: ignore[misc]
        def progress(self, job_id, token, progress):  # type: ignore[no-untyped-def]
            seen.append(progress)
            super().progress(job_id, token, progress)

    store = Watched(stack.store._redis)
    job = stack.create(steps=3, super_resolution=True, sr_steps=2, num_outputs=2)
    Runner(store, stack.storage, pipelines, stack.settings.temporary).run(job.id)
    assert seen[-1].progress == 1
    assert {p.stage for p in seen} == {"base", "sr"}
    assert {p.total_steps for p in seen if p.stage == "sr"} == {2}


@pytest.mark.parametrize(
    ("change", "code", "retryable"),
    [
        ({"model": "nobody"}, "invalid_request", False),
        ({}, "storage_unavailable", True),
    ],
)
def test_a_job_that_cannot_be_done_fails_with_a_reason(
    stack: Stack, pipelines: dict[str, Pipeline], change: dict[str, str], code: str, retryable: bool
) -> None:
    job = stack.create()
    served = {} if change else pipelines
    Runner(stack.store, FullFolder(Path(stack.settings.storage_url)), served, stack.settings.temporary).run(job.id)
    record = stack.store.get(job.id)
    assert record.status is Status.FAILED
    assert record.error is not None
    assert (record.error.code, record.error.retryable, record.error.attempt) == (code, retryable, 1)
    assert not any(stack.settings.temporary.glob("*/*"))
