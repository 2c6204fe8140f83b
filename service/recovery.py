"""What the embedded stack does for jobs whose worker is gone.

It runs the only worker: while that one is down, every job that has not ended is nobody's.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from service.jobs.queue import JobQueue, QueueUnavailable
from service.jobs.record import IllegalTransition, Job, JobError, StaleClaim, Status
from service.jobs.store import JobStore, StoreUnavailable, UnknownJob, connect
from service.settings import Settings

STRIKES = 3
"""A job that was running at so many deaths of the worker is taken for their cause."""

PATIENCE = 10.0
"""Seconds to wait for a Redis that is being started again as well."""

_T = TypeVar("_T")


class Recovery:
    """Wakes the worker for jobs that have not ended. A message too many does no harm: the record says what to do."""

    def __init__(self, settings: Settings) -> None:
        self._store = JobStore(connect(settings))
        self._queue = JobQueue(settings)
        self._strikes: Counter[str] = Counter()

    def wake_all(self) -> int:
        """Send a message for every job that has not ended; return their number.

        Raises StoreUnavailable or QueueUnavailable if Redis stays away.
        """
        return self._insist(self._wake)

    def after_death(self) -> int:
        """The worker died: fail the job that it ran if this was its last strike, wake the others; return their number.

        Raises StoreUnavailable or QueueUnavailable if Redis stays away.
        """
        for job in self._insist(self._store.unfinished):
            if job.status is Status.IN_PROGRESS:
                self._strike(job)
        return self.wake_all()

    def _strike(self, job: Job) -> None:
        self._strikes[job.id] += 1
        if self._strikes[job.id] < STRIKES:
            return
        error = JobError("worker_died", f"the worker died {STRIKES} times while it ran this job", False, job.attempt)
        try:
            self._store.fail(job.id, job.attempt, error)
        except (UnknownJob, StaleClaim, IllegalTransition):
            return  # erased or ended meanwhile

    def _wake(self) -> int:
        jobs = self._store.unfinished()
        for job in jobs:
            self._queue.enqueue(job)
        return len(jobs)

    def _insist(self, action: Callable[[], _T]) -> _T:
        """Redis may have died at the same moment: give it time to be started again."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return action()
            except (StoreUnavailable, QueueUnavailable):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
