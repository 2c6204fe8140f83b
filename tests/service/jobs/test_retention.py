"""How jobs come to their end."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
import redis

from service.jobs.record import Timings
from service.jobs.retention import AFTERMATH, Retention, Sweeper
from service.jobs.store import JobStore, UnknownJob, connect
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


def test_what_has_expired_is_erased_whole_and_nothing_else(
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


def test_a_job_that_waits_for_longer_than_its_retention_is_erased_too(retention: Retention, store: JobStore) -> None:
    job = a_job(retention=timedelta(milliseconds=1))
    store.create(job)
    until(lambda: retention.sweep() == 1, "the job is erased")
    assert store.claim(job.id, "a worker") is None
    assert store.count_queued() == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt(), StorageUnavailable("away")])
def test_an_erasure_that_is_cut_off_is_taken_up_again(
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


def test_an_upload_whose_job_is_recorded_stays(
    retention: Retention, store: JobStore, storage: Breaking, settings: Settings
) -> None:
    kept(retention, store, storage, timedelta(days=7))
    assert retention.sweep(time.time() + AFTER) == 0
    assert names_in(settings.data) == ["input.mp4", "video.mp4"]


def test_what_a_worker_writes_after_its_job_was_deleted_is_erased(
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
    store.create(a_job(retention=timedelta(milliseconds=1)))
    storage.error = StorageUnavailable("away")
    with Sweeper(retention, interval=0.02):
        until(lambda: store.page() == ([], None), "the record is erased")
        assert names_in(settings.data) == ["input.mp4"]
        storage.error = None
        until(lambda: not names_in(settings.data), "the file is erased when storage is back")


def test_an_expired_job_is_gone_for_a_while_and_then_unknown(
    run_api: Callable[[Settings], RunningApi], settings: Settings, retention: Retention, store: JobStore
) -> None:
    short = {"retention": timedelta(seconds=1), "remember_erased": timedelta(seconds=2)}
    api = run_api(settings.model_copy(update=short))
    remembering = Retention(connect(settings), store, open_storage(settings), timedelta(seconds=2))
    with httpx.Client(base_url=api.url, trust_env=False, timeout=30) as client:
        job = client.post("/v2a", files={"file": ("a.mp4", media.video())}).json()
        paths = (job["urls"]["self"], job["urls"]["input"])
        until(lambda: client.get(paths[0]).status_code == 410, "it expires by the clock, swept or not")
        until(lambda: remembering.sweep() == 1, "it is swept")
        for path in paths:
            problem(client.get(path), 410, "gone")
        assert names_in(settings.data) == []
        until(lambda: client.get(paths[0]).status_code == 404, "it is forgotten")
