"""Erases jobs: record, upload and results together, also if a step fails.

The record is erased first: after that no file can be requested, and no worker can commit one. `duet:unrecorded` holds
the ids whose files may have no record, by the time at which they are checked. An id is entered before the first file of
its job is stored and before its record is erased, so a crash leaves no orphaned file. Retention counts from the end of
a job; a job that has not ended is never swept.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import redis

from service.jobs.connection import StoreUnavailable, reachable
from service.jobs.record import Job, UnreadableRecord, storage_prefix
from service.jobs.records import UnknownJob
from service.jobs.store import JobStore
from service.log import log
from service.periodic import Periodic
from service.storage import Storage, StorageUnavailable

AFTERMATH = timedelta(hours=1)
"""Time for which a submission may be in progress without a record, and a worker may still write files of an erased
job."""

SWEEP_INTERVAL = 30.0
"""Seconds."""

_UNRECORDED = "duet:unrecorded"
_BATCH = 100


class Retention:
    """Erases jobs. Any number of processes may do so at the same time."""

    def __init__(self, client: redis.Redis, store: JobStore, storage: Storage, remember: timedelta) -> None:
        """`remember`: how long an erased job answers 410 instead of 404."""
        self._redis = client
        self._store = store
        self._storage = storage
        self._remember = remember

    def watch(self, job_id: str) -> None:
        """Register the job before its first file is stored. Its record follows. Raises StoreUnavailable."""
        with reachable():
            self._redis.zadd(_UNRECORDED, {job_id: time.time() + AFTERMATH.total_seconds()})

    def take_back(self, job_id: str) -> None:
        """Erase all of a refused submission.

        Raises StoreUnavailable or StorageUnavailable if not everything could be erased; a later sweep erases the rest.
        """
        self._store.erase(job_id)
        self._erase_files(job_id)

    def erase(self, job: Job) -> None:
        """Erase the whole job. Files that storage cannot erase now are erased later. Raises StoreUnavailable."""
        self.watch(job.id)
        self._store.erase(job.id, self._remember)
        try:
            self._storage.delete_prefix(storage_prefix(job.id))
        except StorageUnavailable as error:
            log.warning("files of an erased job wait for storage", job=job.id, error=str(error))
            return
        if job.holder is None:
            self._settle(job.id)
        # Otherwise its worker may write another file before it learns of the erasure: a later sweep erases that.

    def sweep(self, now: float | None = None) -> int:
        """Erase expired jobs and files without a record; return the number of jobs.

        `now`: seconds since 1970, for the files; default the clock's. Raises StoreUnavailable, StorageUnavailable.
        """
        erased = self._sweep_jobs() + self._sweep_files(time.time() if now is None else now)
        self._store.recheck_unreadable()
        if erased:
            log.info("jobs erased", count=erased)
        return erased

    def _sweep_jobs(self) -> int:
        """Each id is erased, dropped or skipped, so this ends whatever the ids are."""
        count = skipped = 0
        while expired := self._store.expired(_BATCH, skipped):
            for job_id in expired:
                try:
                    job = self._store.get(job_id)
                except UnreadableRecord:
                    skipped += 1
                except UnknownJob:
                    self._store.drop_expiry(job_id)
                else:
                    if job.status.ended:
                        self.erase(job)
                        count += 1
                    else:  # retention counts from the end
                        self._store.drop_expiry(job_id)
        return count

    def _sweep_files(self, now: float) -> int:
        count = 0
        while True:
            with reachable():
                due: Any = self._redis.zrangebyscore(_UNRECORDED, "-inf", now, 0, _BATCH)
            for job_id in (each.decode() for each in due):
                try:
                    self._store.get(job_id)
                    self._settle(job_id)
                except UnreadableRecord:  # the job exists, so its files stay
                    self._settle(job_id)
                except UnknownJob:
                    self._erase_files(job_id)
                    count += 1
            if not due:
                return count

    def _erase_files(self, job_id: str) -> None:
        self._storage.delete_prefix(storage_prefix(job_id))
        self._settle(job_id)

    def _settle(self, job_id: str) -> None:
        with reachable():
            self._redis.zrem(_UNRECORDED, job_id)


def sweeper(
    retention: Retention, interval: float = SWEEP_INTERVAL, failed: Callable[[str], None] = lambda name: None
) -> Periodic:
    """Sweeps every `interval` seconds; `failed` is called with its name for each sweep that fails."""
    return Periodic(
        "sweeper", retention.sweep, interval, expected=(StoreUnavailable, StorageUnavailable), failed=failed
    )
