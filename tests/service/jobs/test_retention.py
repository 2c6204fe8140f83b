"""Erasure of expired and deleted jobs."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
import redis

from service.jobs.connection import connect
from service.jobs.record import Status, Timings
from service.jobs.records import UnknownJob
from service.jobs.retention import AFTERMATH, Retention, sweeper
from service.jobs.store import JobStore
from service.settings import Settings
from service.storage import FolderStorage, StorageUnavailable, open_storage
from tests.conftest import RunningApi
from tests.files import files_in
from tests.service import media
from tests.service.answers import problem
from tests.service.new_jobs import OUTPUT, a_job
from tests.waiting import until

AFTER = AFTERMATH.total_seconds() + 1


class Breaking(FolderStorage):
    """A store that is away when something is to be erased, or ends the process then."""

    error: BaseException | None = None

    def delete_prefix(self, prefix: str) -> None:
        if self.error is not None:
            raise self.error
        super().delete_prefix(prefix)


@pytest.fixture
def client_of_redis(settings: Settings) -> redis.Redis:
    return connect(settings)


@pytest.fixture
def storage(settings: Settings) -> Breaking:
    return Breaking(Path(settings.storage_url))


@pytest.fixture
def retention(client_of_redis: redis.Redis, store: JobStore, storage: Breaking) -> Retention:
    return Retention(client_of_redis, store, storage, timedelta(days=1))


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in files_in(folder))


def kept(retention: Retention, store: JobStore, storage: Breaking, lasts: timedelta) -> str:
    """A completed job with an upload and a result; its id."""
    job = a_job(retention=lasts)
    retention.watch(job.id)
    storage.put_bytes(f"{job.storage_prefix}input.mp4", b"upload", "video/mp4")
    store.create(job)
    claimed = store.claim(job.id, "a worker")
    assert claimed is not None
    store.start(job.id, 1)
    storage.put_bytes(claimed.attempt_key("video.mp4"), b"result", "video/mp4")
    store.complete(job.id, 1, [OUTPUT], Timings())
    return job.id


def nothing_is_left(client: redis.Redis, settings: Settings, job_id: str) -> None:
    """No file, and in Redis only the memory that there was such a job."""
    assert names_in(settings.data) == []
    mentioned = [key for key in client.scan_iter("*") if job_id.encode() in key]
    assert mentioned == [f"duet:gone:{job_id}".encode()]
    for key in client.scan_iter("*"):
        if client.type(key) == b"zset":
            assert client.zscore(key, job_id) is None, key


def test_expired_jobs_are_erased_completely_and_nothing_else(
    retention: Retention, store: JobStore, storage: Breaking, settings: Settings, client_of_redis: redis.Redis
) -> None:
    old = kept(retention, store, storage, timedelta(milliseconds=1))
    new = kept(retention, store, storage, timedelta(days=7))
    until(lambda: retention.sweep() == 1, "the job is erased")
    with pytest.raises(UnknownJob):
        store.get(old)
    assert store.get(new).id == new
    assert names_in(settings.data) == ["input.mp4", "video.mp4"]
    retention.erase(store.get(new))
    for job_id in (old, new):
        nothing_is_left(client_of_redis, settings, job_id)


def test_retention_counts_from_the_end_of_a_job(
    retention: Retention, store: JobStore, client_of_redis: redis.Redis
) -> None:
    queued, running = (a_job(retention=timedelta(milliseconds=1)) for _ in range(2))
    for job in (queued, running):
        store.create(job)
        client_of_redis.zadd("duet:expiry", {job.id: 1})  # as versions before wrote it
    store.claim(running.id, "w")
    store.start(running.id, 1)
    assert retention.sweep() == 0
    assert client_of_redis.zcard("duet:expiry") == 0
    assert store.get(queued.id).status is Status.QUEUED
    store.complete(running.id, 1, [OUTPUT], Timings())
    until(lambda: retention.sweep() == 1, "the job that has ended is erased")
    assert store.get(queued.id).status is Status.QUEUED


def test_an_expiry_without_a_record_does_not_keep_the_sweep_busy(
    retention: Retention, client_of_redis: redis.Redis
) -> None:
    client_of_redis.zadd("duet:expiry", {"x": 1})
    assert retention.sweep() == 0
    assert client_of_redis.zcard("duet:expiry") == 0


def test_the_sweep_skips_records_that_cannot_be_read(
    retention: Retention, store: JobStore, storage: Breaking, client_of_redis: redis.Redis
) -> None:
    broken = kept(retention, store, storage, timedelta(milliseconds=1))
    good = kept(retention, store, storage, timedelta(milliseconds=1))
    text = client_of_redis.get(f"duet:job:{broken}")
    client_of_redis.set(f"duet:job:{broken}", '{"status": "paused"}')
    until(lambda: retention.sweep() == 1, "the other one is erased")
    with pytest.raises(UnknownJob):
        store.get(good)
    assert client_of_redis.smembers("duet:unreadable") == {broken.encode()}
    client_of_redis.set(f"duet:job:{broken}", text)
    assert retention.sweep() == 1
    retention.sweep()
    assert client_of_redis.smembers("duet:unreadable") == set()


def test_the_upload_of_a_running_job_is_erased_at_once(
    retention: Retention, store: JobStore, storage: Breaking, settings: Settings
) -> None:
    job = a_job()
    retention.watch(job.id)
    storage.put_bytes(f"{job.storage_prefix}input.mp4", b"upload", "video/mp4")
    store.create(job)
    store.claim(job.id, "w")
    store.start(job.id, 1)
    retention.erase(store.get(job.id))
    assert names_in(settings.data) == []


def test_the_sweeper_survives_any_error(retention: Retention, monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[str] = []
    sweeps = iter([ValueError("unknown"), KeyError("another")])

    def sweep(self: Retention) -> int:
        if (error := next(sweeps, None)) is not None:
            raise error
        failures.append("well")
        return 0

    monkeypatch.setattr(Retention, "sweep", sweep)
    with sweeper(retention, 0.01, failures.append):
        until(lambda: "well" in failures, "it sweeps again")
    assert failures[:3] == ["sweeper", "sweeper", "well"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), StorageUnavailable("away")])
def test_an_interrupted_erasure_is_completed_later(
    retention: Retention,
    store: JobStore,
    storage: Breaking,
    settings: Settings,
    client_of_redis: redis.Redis,
    error: BaseException,
) -> None:
    """Between record and files the process dies, or storage goes away."""
    job_id = kept(retention, store, storage, timedelta(days=7))
    storage.error = error
    with suppress(KeyboardInterrupt):
        retention.erase(store.get(job_id))
    with pytest.raises(UnknownJob):
        store.get(job_id)
    assert names_in(settings.data) == ["input.mp4", "video.mp4"]
    storage.error = None
    assert retention.sweep() == 0, "it may still be under way"
    assert retention.sweep(time.time() + AFTER) == 1
    nothing_is_left(client_of_redis, settings, job_id)


def test_an_upload_whose_api_died_before_the_record_was_written_is_erased(
    retention: Retention, storage: Breaking, settings: Settings
) -> None:
    job = a_job()
    retention.watch(job.id)
    storage.put_bytes(f"{job.storage_prefix}input.mp4", b"upload", "video/mp4")
    assert retention.sweep() == 0
    assert retention.sweep(time.time() + AFTER) == 1
    assert names_in(settings.data) == []


def test_an_upload_with_a_record_is_kept(
    retention: Retention, store: JobStore, storage: Breaking, settings: Settings
) -> None:
    kept(retention, store, storage, timedelta(days=7))
    assert retention.sweep(time.time() + AFTER) == 0
    assert names_in(settings.data) == ["input.mp4", "video.mp4"]


def test_files_written_after_their_job_was_deleted_are_erased(
    retention: Retention, store: JobStore, storage: Breaking, settings: Settings
) -> None:
    job = a_job()
    store.create(job)
    claimed = store.claim(job.id, "a worker")
    assert claimed is not None
    store.start(job.id, 1)
    retention.erase(store.get(job.id))
    storage.put_bytes(claimed.attempt_key("video.mp4"), b"late", "video/mp4")
    assert retention.sweep(time.time() + AFTER) == 1
    assert names_in(settings.data) == []


def test_a_failed_sweep_is_followed_by_another(
    retention: Retention, store: JobStore, storage: Breaking, settings: Settings, client_of_redis: redis.Redis
) -> None:
    upload = a_job()
    client_of_redis.zadd("duet:unrecorded", {upload.id: time.time()})
    storage.put_bytes(f"{upload.storage_prefix}input.mp4", b"upload", "video/mp4")
    job = a_job(retention=timedelta(milliseconds=1))
    store.create(job)
    store.request_cancel(job.id)
    storage.error = StorageUnavailable("away")
    with sweeper(retention, interval=0.02):
        until(lambda: store.page() == ([], None), "the record is erased")
        assert names_in(settings.data) == ["input.mp4"]
        storage.error = None
        until(lambda: not names_in(settings.data), "the file is erased when storage is back")


def test_an_expired_job_answers_410_for_a_while_and_then_404(
    run_api: Callable[[Settings], RunningApi], settings: Settings, retention: Retention, store: JobStore
) -> None:
    short = {"retention": timedelta(seconds=1), "remember_erased": timedelta(seconds=2)}
    api = run_api(settings.model_copy(update=short))
    remembering = Retention(connect(settings), store, open_storage(settings), timedelta(seconds=2))
    with httpx.Client(base_url=api.url, trust_env=False, timeout=30) as client:
        job = client.post("/v2a", files={"file": ("a.mp4", media.video())}).json()
        paths = (job["urls"]["self"], job["urls"]["input"])
        time.sleep(1.1)  # longer than the retention: time itself is tested
        assert client.get(paths[0]).json()["status"] == "queued", "retention counts from the end"
        client.post(job["urls"]["cancel"])
        until(lambda: client.get(paths[0]).status_code == 410, "it expires by the clock, swept or not")
        until(lambda: remembering.sweep() == 1, "it is swept")
        for path in paths:
            problem(client.get(path), 410, "gone")
        assert names_in(settings.data) == []
        until(lambda: client.get(paths[0]).status_code == 404, "it is forgotten")
