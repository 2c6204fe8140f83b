"""The spool and lease threads survive unexpected errors."""

from __future__ import annotations

import errno
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from service.jobs.record import Job, Scores, Status
from service.storage import FolderStorage, StorageUnavailable
from tests.waiting import until
from tests.workers.conftest import Stack
from tests.workers.fake import parts
from workers import spool as spool_module
from workers.app import Heartbeat
from workers.spool import ABANDONED_SECONDS, ATTEMPTS, Spool


class Refusing(FolderStorage):
    """A folder that refuses the files of some jobs."""

    def __init__(self, path: Path, error: Exception) -> None:
        super().__init__(path)
        self.error = error
        self.refused: set[str] = set()

    def put_file(self, key: str, path: Path, content_type: str) -> None:
        if any(job_id in key for job_id in self.refused):
            raise self.error
        super().put_file(key, path, content_type)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "LONGEST_PAUSE", 0.01)
    monkeypatch.setattr(spool_module, "INTERVAL", 0.01)


def one_undelivered(stack: Stack) -> tuple[Refusing, Job, Spool]:
    """A completed job whose files are in the spool, because storage refuses them."""
    storage = Refusing(Path(stack.settings.storage_url), StorageUnavailable("away"))
    runner, _, spool = parts(stack, storage=storage)
    job = stack.create()
    storage.refused = {job.id}
    runner.run(job.id)
    return storage, job, spool


def test_a_result_that_storage_refuses_does_not_delay_others(stack: Stack) -> None:
    storage = Refusing(Path(stack.settings.storage_url), StorageUnavailable("access denied"))
    runner, _, spool = parts(stack, storage=storage)
    jobs = [stack.create() for _ in range(3)]
    storage.refused = {job.id for job in jobs}
    for job in jobs:
        runner.run(job.id)
    assert len(spool.waiting()) == 3
    storage.refused = {jobs[0].id}
    spool.round()
    assert [stack.store.get(job.id).status for job in jobs[1:]] == [Status.COMPLETED] * 2
    storage.refused.clear()
    until(lambda: spool.round() or stack.store.get(jobs[0].id).status is Status.COMPLETED, "the first is delivered")
    spool.stop()


def test_a_result_that_cannot_be_delivered_is_finally_given_up(stack: Stack) -> None:
    storage, job, spool = one_undelivered(stack)
    storage.error = KeyError("never thought of")
    failures: list[str] = []
    spool._failed = failures.append
    until(lambda: spool.round() or not spool.waiting(), "it is given up")
    spool.stop()
    assert failures == ["spool"] * ATTEMPTS
    record = stack.store.get(job.id)
    assert (record.status, record.strikes) == (Status.QUEUED, 1)


def test_stray_files_and_unreadable_entries_stop_nothing(stack: Stack) -> None:
    storage, job, spool = one_undelivered(stack)
    folder = stack.settings.spool
    (folder / "a-stray-file").write_text("not a folder")
    broken = folder / "broken-1"
    broken.mkdir()
    (broken / "result.json").write_text("{")
    storage.refused.clear()
    until(lambda: spool.round() or stack.store.get(job.id).status is Status.COMPLETED, "it is delivered")
    old = time.time() - ABANDONED_SECONDS - 1
    os.utime(broken, (old, old))
    spool.round()
    assert [path.name for path in folder.iterdir()] == ["a-stray-file"]


def test_a_disk_that_fills_during_a_write_leaves_no_folder(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool: Spool = parts(stack)[2]
    job = stack.create()
    job = stack.store.claim(job.id, "worker") or job
    file = tmp_path / "video.mp4"
    file.write_bytes(b"film")

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(spool_module, "flush", full)
    with pytest.raises(OSError, match="No space"):
        spool.add(job, [{"video.mp4": file}], spool_module.Timings())
    assert list(stack.settings.spool.iterdir()) == []


def test_outputs_that_are_not_kept_leave_no_files(stack: Stack, tmp_path: Path) -> None:
    spool: Spool = parts(stack)[2]
    job = stack.create()
    job = stack.store.claim(job.id, "worker") or job
    stack.store.start(job.id, job.attempt)
    job = replace(job, params=replace(job.params, num_outputs=3, keep=1, rank_by="sync"))
    made = [{"video.mp4": tmp_path / f"{index}-video.mp4"} for index in range(3)]
    for index, files in enumerate(made):
        files["video.mp4"].write_text(f"film {index}")
    scores = {0: Scores(0.1), 1: Scores(0.9, lag=0.1)}

    result = spool.add(job, made, spool_module.Timings(), scores)

    assert list(tmp_path.glob("*-video.mp4")) == []
    assert spool.waiting() == [result], "another process reads the same"
    assert spool.deliver(result)
    outputs = stack.store.get(job.id).outputs
    key = job.attempt_key("1/video.mp4")
    assert [(each.index, each.files, each.scores) for each in outputs] == [
        (1, {"video.mp4": key}, scores[1]),
        (0, {}, scores[0]),
        (2, {}, Scores()),
    ]
    kept = list(Path(stack.settings.storage_url).rglob("*video.mp4"))
    assert [path.read_text() for path in kept] == ["film 1"]


@pytest.mark.parametrize("task", ["leases", "spool", "heartbeat"])
def test_each_thread_survives_an_unknown_error(task: str, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[str] = []
    calls: list[int] = []

    def fails(*arguments: object) -> None:
        calls.append(1)
        raise KeyError("never thought of")

    stack.store.lease = 0.2
    _, leases, spool = parts(stack)
    threads = {"leases": leases, "spool": spool, "heartbeat": Heartbeat("w", stack.store, failed=failures.append)}
    leases._renewal._failed = spool._thread._failed = failures.append
    monkeypatch.setattr(stack.store, "renew", fails)
    monkeypatch.setattr(stack.store, "announce_worker", fails)
    monkeypatch.setattr(spool, "waiting", fails)
    thread = threads[task]
    with leases.hold("job_x", 1):
        thread.start()
        until(lambda: len(calls) >= 3, "it is called again after each error")
        thread.stop()
    assert set(failures) == {task}
    assert len(failures) >= 2
