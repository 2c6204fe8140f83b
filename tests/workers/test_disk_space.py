"""A worker whose disk is full: a small file system of its own where the tests can mount one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from service.jobs.record import Status
from service.settings import Settings
from service.storage import FolderStorage
from tests.small_disk import NotMounted, fill, small_disk
from tests.waiting import until
from tests.workers.conftest import Stack
from tests.workers.fake import FakeWorker
from workers.disk_space import RESERVE, DiskSpace


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs with little more than the reserve."""
    folder = tmp_path / "disk"
    with ExitStack() as stack:
        try:
            stack.enter_context(small_disk(folder, RESERVE + 2 * 2**20))
        except NotMounted as error:
            pytest.skip(str(error))
        yield folder


@pytest.fixture
def stack(redis_url: str, models: Path, disk: Path, tmp_path: Path) -> Iterator[Stack]:
    """The worker's data on the small disk, the results elsewhere."""
    settings = Settings(
        redis_url=redis_url,
        data=disk,
        storage=str(tmp_path / "objects"),
        models=models,
        default_model="tiny",
        lease=2,
        slots=2,
    )
    stack = Stack(settings)
    assert isinstance(stack.storage, FolderStorage)
    yield stack
    stack.queue.close()


def test_a_worker_on_a_full_disk_waits_for_room_and_costs_no_job_a_strike(
    stack: Stack, disk: Path, tmp_path: Path
) -> None:
    worker = FakeWorker(stack.settings, tmp_path, step_seconds=0.3)
    try:
        until(stack.store.workers, "the worker is there", 60)
        jobs = [stack.submit() for _ in range(4)]
        until(lambda: stack.store.get(jobs[0].id).status is Status.IN_PROGRESS, "the first runs")
        filler = disk / "filler"
        fill(filler)
        until(lambda: not stack.store.workers(), "the worker says that it is not ready", 30)
        until(lambda: all(stack.store.get(job.id).status is Status.QUEUED for job in jobs), "all are handed back", 30)
        assert [stack.store.get(job.id).strikes for job in jobs] == [0] * 4
        filler.unlink()
        for job in jobs:
            done = stack.ended(job)
            assert (done.status, done.strikes) == (Status.COMPLETED, 0)
        until(stack.store.workers, "the worker is ready again")
    finally:
        worker.stop()


def test_a_job_that_fills_the_disk_pauses_the_worker(tmp_path: Path) -> None:
    disk = DiskSpace(tmp_path / "not" / "yet", reserve=1, pause=0.1)
    assert disk.has_room()
    disk.ran_out()
    assert not disk.has_room()
    until(disk.has_room, "the pause is over")


def test_a_disk_below_its_reserve_has_no_room(tmp_path: Path) -> None:
    assert not DiskSpace(tmp_path, reserve=2**60).has_room()
