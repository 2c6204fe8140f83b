"""Attempts: fencing tokens, failures, strikes and cancellation."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.checkpoint.manifest import find_models
from model.request import RequestError
from model.runtime.pipeline import Pipeline
from service.jobs.record import Job, Status
from service.storage import FolderStorage, StorageUnavailable
from tests.waiting import until
from tests.workers.conftest import Stack
from tests.workers.fake import Failing, parts
from workers.decoder import DecoderLost, confined
from workers.model_maker import ModelMaker
from workers.runner import FREE_ATTEMPTS, Attempt, BackInQueue, Runner
from workers.spool import Files

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="session")
def pipelines(models: Path) -> dict[str, Pipeline]:
    return {"tiny": Pipeline.load(find_models(models)["tiny"], device="cpu")}


@pytest.fixture
def maker(pipelines: dict[str, Pipeline]) -> Iterator[ModelMaker]:
    maker = ModelMaker(pipelines)
    yield maker
    maker.stop()
    maker.close()


@pytest.fixture
def runner(stack: Stack, maker: ModelMaker) -> Runner:
    return parts(stack, maker)[0]


def test_a_job_of_several_windows_is_long(stack: Stack, maker: ModelMaker) -> None:
    window = maker.models.pipelines[0].manifest.config.clip.duration
    found = [maker.is_long(stack.create(duration=seconds)) for seconds in (None, window / 2, window, window + 0.1)]
    assert found == [False, False, False, True]


class TakenDuringUpload(FolderStorage):
    """A folder that is slow enough for the lease to run out and another worker to claim the job meanwhile."""

    def __init__(self, stack: Stack, job: Job) -> None:
        super().__init__(Path(stack.settings.storage_url))
        self.stack, self.job = stack, job
        self.stored: list[str] = []

    def put_file(self, key: str, path: Path, content_type: str) -> None:
        super().put_file(key, path, content_type)
        if not self.stored:
            overtake(self.stack, self.job)
        self.stored.append(key)


def overtake(stack: Stack, job: Job) -> None:
    assert stack.store.abandon(job.id, known_dead=True) is not None
    assert stack.store.claim(job.id, "another worker") is not None


def test_a_stale_token_commits_nothing_and_its_files_are_erased(stack: Stack, maker: ModelMaker) -> None:
    job = stack.create()
    storage = TakenDuringUpload(stack, job)
    parts(stack, maker, storage)[0].run(job.id)
    assert storage.stored
    assert stack.files(job) == []
    record = stack.store.get(job.id)
    assert record.attempt == 2
    assert not record.status.ended
    assert record.outputs == ()


def test_the_attempt_that_overtook_completes(stack: Stack, maker: ModelMaker, runner: Runner) -> None:
    job = stack.create()
    parts(stack, maker, TakenDuringUpload(stack, job))[0].run(job.id)
    stack.store.hand_back(job.id, 2)
    runner.run(job.id)
    record = stack.store.get(job.id)
    assert (record.status, record.attempt) == (Status.COMPLETED, 3)
    assert all("/attempt-3/" in key for key in stack.files(job))
    assert len(stack.files(job)) == 5


def test_an_attempt_notices_at_its_next_report_that_it_was_overtaken(stack: Stack, runner: Runner) -> None:
    job = stack.create(steps=1000)
    thread = threading.Thread(target=runner.run, args=[job.id])
    thread.start()
    until(lambda: stack.store.look(job.id).progress, "the first step is reported")
    overtake(stack, job)
    thread.join(5)
    assert not thread.is_alive()
    assert stack.files(job) == []
    assert not stack.store.get(job.id).status.ended


def test_a_stopping_runner_releases_its_job_at_once(
    stack: Stack, runner: Runner, pipelines: dict[str, Pipeline]
) -> None:
    job = stack.create(steps=30)
    raised: list[BaseException] = []

    def run() -> None:
        try:
            runner.run(job.id)
        except BackInQueue as reason:
            raised.append(reason)

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: stack.store.look(job.id).progress, "the first step is reported")
    runner.stop()
    thread.join(5)
    assert raised
    with pytest.raises(BackInQueue):
        runner.run(job.id)
    waiting = stack.store.get(job.id)
    assert (waiting.status, waiting.attempt, waiting.strikes) == (Status.QUEUED, 1, 0)
    successor = ModelMaker(pipelines)
    parts(stack, successor)[0].run(job.id)
    assert stack.store.get(job.id).status is Status.COMPLETED
    successor.stop()
    successor.close()


def test_progress_rises_to_one_and_names_the_stages(stack: Stack, maker: ModelMaker) -> None:
    seen = []

    class Watched(type(stack.store)):  # type: ignore[misc]
        def progress(self, job_id, token, progress):  # type: ignore[no-untyped-def]
            seen.append(progress)
            return super().progress(job_id, token, progress)

    stack.store = Watched(stack.store._redis)
    job = stack.create(steps=3, super_resolution=True, sr_steps=2, num_outputs=2)
    parts(stack, maker)[0].run(job.id)
    assert seen[-1].progress == 1
    assert {p.stage for p in seen} == {"base", "sr"}
    assert {p.total_steps for p in seen if p.stage == "sr"} == {2}


def test_a_job_whose_model_a_worker_lacks_waits_for_one_that_has_it(stack: Stack, runner: Runner) -> None:
    job = stack.submit()
    without = ModelMaker({})
    parts(stack, without)[0].run(job.id)
    without.stop()
    without.close()
    record = stack.store.get(job.id)
    assert (record.status, record.attempt, record.strikes, record.holder) == (Status.QUEUED, 0, 0, None)
    assert record.model_missing_since is not None
    runner.run(job.id)
    assert stack.store.get(job.id).status is Status.COMPLETED


class Refusing(ModelMaker):
    """A maker whose model refuses the parameters."""

    def _make(self, attempt: Attempt) -> list[Files]:
        raise RequestError("steps", "this model has no such steps")


def test_a_job_that_cannot_be_made_fails_at_once_with_a_reason(stack: Stack, pipelines: dict[str, Pipeline]) -> None:
    job = stack.create()
    maker = Refusing(pipelines)
    parts(stack, maker)[0].run(job.id)
    maker.stop()
    maker.close()
    record = stack.store.get(job.id)
    assert record.status is Status.FAILED
    assert record.error is not None
    assert (record.error.code, record.error.retryable, record.error.attempt) == ("invalid_request", False, 1)
    assert not any(stack.settings.temporary.glob("*/*"))


def a_bug() -> None:
    raise KeyError("an error in our own code")


class BrokenInItsDecoder(Failing):
    """A maker whose decoder child fails in Duet's own code, as it would at every attempt."""

    def make(self, attempt: Attempt) -> list[Files]:
        confined(a_bug)
        raise AssertionError("the error of the child is raised here")


@pytest.mark.parametrize("maker", [Failing, BrokenInItsDecoder])
def test_a_job_that_raises_is_tried_three_times(stack: Stack, maker: type[Failing]) -> None:
    job = stack.create()
    runner = parts(stack, maker(RuntimeError("the device failed")))[0]
    for strikes in (1, 2):
        with pytest.raises(BackInQueue):
            runner.run(job.id)
        record = stack.store.get(job.id)
        assert (record.status, record.strikes) == (Status.QUEUED, strikes)
    runner.run(job.id)
    record = stack.store.get(job.id)
    assert (record.status, record.attempt) == (Status.FAILED, 3)
    assert record.error is not None
    assert (record.error.code, record.error.retryable) == ("internal_error", True)


class LosesItsDecoder(ModelMaker):
    """A maker whose decoder was killed from outside."""

    def _make(self, attempt: Attempt) -> list[Files]:
        raise DecoderLost("the decoder was killed from outside")


def test_a_lost_decoder_costs_no_strike_in_the_first_attempts(stack: Stack, pipelines: dict[str, Pipeline]) -> None:
    job = stack.create()
    maker = LosesItsDecoder(pipelines)
    runner = parts(stack, maker)[0]
    runner._stopping.wait = lambda seconds: False  # type: ignore[method-assign, assignment]
    for attempt in range(1, FREE_ATTEMPTS + 1):
        with pytest.raises(BackInQueue):
            runner.run(job.id)
        record = stack.store.get(job.id)
        assert (record.status, record.attempt) == (Status.QUEUED, attempt)
        assert record.strikes == (attempt == FREE_ATTEMPTS)
    maker.stop()
    maker.close()


def test_a_cancelled_job_stops_with_its_next_step(stack: Stack, runner: Runner) -> None:
    job = stack.create(steps=1000)
    thread = threading.Thread(target=runner.run, args=[job.id])
    thread.start()
    until(lambda: stack.store.look(job.id).progress, "the first step is reported")
    assert stack.store.request_cancel(job.id).status is Status.IN_PROGRESS
    thread.join(3)
    assert not thread.is_alive()
    assert stack.store.get(job.id).status is Status.CANCELED
    assert stack.files(job) == []


def test_an_upload_that_is_gone_fails_the_job_and_one_that_is_away_is_waited_for(stack: Stack, tmp_path: Path) -> None:
    upload = tmp_path / "upload.mp4"
    upload.write_bytes(b"film")
    gone, away = stack.create("v2a", upload), stack.create("v2a", upload)
    stack.storage.delete_prefix(gone.storage_prefix)
    runner = parts(stack)[0]
    runner.run(gone.id)
    record = stack.store.get(gone.id)
    assert record.error is not None
    assert record.error.code == "input_missing"

    refused: list[str] = []

    class Away(FolderStorage):
        def download(self, key: str, path: Path) -> None:
            if not refused:
                refused.append(key)
                raise StorageUnavailable("nobody answers")
            super().download(key, path)

    parts(stack, storage=Away(Path(stack.settings.storage_url)))[0].run(away.id)
    assert refused
    assert stack.store.get(away.id).status is Status.COMPLETED
