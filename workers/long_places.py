"""The places of a worker for long jobs: all of its slots but a few, which are for short jobs.

A long job that finds no place is left in the queue. The thread that frees a place runs it; the reaper sends its message
now and then as well, so that another worker may take the job, and none is lost if this worker dies.
"""

from __future__ import annotations

import threading
from collections.abc import Container

SHARE = 4
"""One of so many slots is for short jobs only, at least one of two."""

RETRY = 5.0
"""Seconds until the reaper offers a waiting job to the next worker, while few of them wait."""

RETRIES_PER_SECOND = 10.0
"""Most messages of waiting jobs, however many there are."""


class LongPlaces:
    """Counts the long jobs of a worker with so many `slots`, and remembers the ids of those that wait."""

    def __init__(self, slots: int) -> None:
        self.most = slots - max(1, slots // SHARE) if slots > 1 else 1
        self._taken = 0
        self._waiting: dict[str, None] = {}
        self._lock = threading.Lock()

    def take(self, job_id: str) -> bool:
        """Take a place; without a free one the job waits."""
        with self._lock:
            if self._taken == self.most:
                self._waiting.setdefault(job_id)
                return False
            self._waiting.pop(job_id, None)
            self._taken += 1
            return True

    def leave(self) -> None:
        """Give a place back."""
        with self._lock:
            self._taken -= 1

    def next(self, in_hand: Container[str] = ()) -> str | None:
        """The job that has waited longest, if there is a place for it; it no longer waits here. Those `in_hand` go on
        waiting: another thread has received their message and looks here when it has found no place."""
        with self._lock:
            if self._taken == self.most:
                return None
            job_id = next((each for each in self._waiting if each not in in_hand), None)
            if job_id is not None:
                del self._waiting[job_id]
            return job_id

    @property
    def retry(self) -> float:
        """Seconds until the next message of a job that begins to wait now."""
        with self._lock:
            return max(RETRY, len(self._waiting) / RETRIES_PER_SECOND)
