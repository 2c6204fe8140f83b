"""How jobs come to their end: record, upload and results are erased together, whatever happens half-way.

The record goes first: from then on nobody can ask for the files, and no worker can commit any. `duet:unrecorded` holds
the ids whose files may be without a record, by the time at which somebody must look. An id is entered before the first
file of its job is stored, and before its record is erased, so that no crash leaves a file that nobody knows of.
"""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import Any

import redis

from service.jobs.record import Job, Status, storage_prefix
from service.jobs.store import JobStore, StoreUnavailable, UnknownJob, reachable
from service.log import log
from service.storage import Storage, StorageUnavailable

AFTERMATH = timedelta(hours=1)
"""So long a submission may be under way without a record, and a worker may still write files of an erased job."""

SWEEP_INTERVAL = 30.0
"""Seconds."""

_UNRECORDED = "duet:unrecorded"
_BATCH = 100


class Retention:
    """Erases jobs. Any number of processes may do so at the same time."""

    def __init__(self, client: redis.Redis, store: JobStore, storage: Storage, remember: timedelta) -> None:
        """`remember`: how long an erased job is told from one that never was."""
        self._redis = client
        self._store = store
        self._storage = storage
        self._remember = remember

    def watch(self, job_id: str) -> None:
        """Files of a job with this id are about to be stored, its record is to follow. Raises StoreUnavailable."""
        with reachable():
            self._redis.zadd(_UNRECORDED, {job_id: time.time() + AFTERMATH.total_seconds()})

    def take_back(self, job_id: str) -> None:
        """Erase what a refused submission has left, without a trace.

        Raises StoreUnavailable or StorageUnavailable where not all of it could be erased; a later sweep does it then.
        """
        self._store.erase(job_id)
        self._erase_files(job_id)

    def erase(self, job: Job) -> None:
        """Erase all of the job. Files that storage cannot erase now are erased later. Raises StoreUnavailable."""
        self.watch(job.id)
        self._store.erase(job.id, self._remember)
        if job.status is Status.IN_PROGRESS:
            return  # its worker may write yet another file before it hears of it: the sweep comes when that is over
        try:
            self._erase_files(job.id)
        except StorageUnavailable as error:
            log.warning("files of an erased job wait for storage", job=job.id, error=str(error))

    def sweep(self, now: float | None = None) -> int:
        """Erase the jobs whose retention is over, and files whose record is gone; return how many jobs that were.

        `now`: seconds since 1970, the clock's where absent, for the files. Raises StoreUnavailable, StorageUnavailable.
        """
        return self._sweep_jobs() + self._sweep_files(time.time() if now is None else now)

    def _sweep_jobs(self) -> int:
        count = 0
        while expired := self._store.expired(_BATCH):
            for job_id in expired:
                try:
                    self.erase(self._store.get(job_id))
                    count += 1
                except UnknownJob:
                    continue  # another process was quicker
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


class Sweeper:
    """Sweeps in a thread as long as the context is open."""

    def __init__(self, retention: Retention, interval: float = SWEEP_INTERVAL) -> None:
        """`interval`: seconds between sweeps."""
        self._retention = retention
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweeper", daemon=True)

    def __enter__(self) -> Sweeper:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            try:
                erased = self._retention.sweep()
            except (StoreUnavailable, StorageUnavailable) as error:
                log.warning("a sweep was cut short", error=str(error))
                continue
            if erased:
                log.info("jobs erased", count=erased)
