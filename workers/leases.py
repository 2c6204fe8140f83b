"""Leases of the jobs that this process holds: renewal, and detection of jobs that hang.

Both run in threads of their own, so that a step that takes minutes does not cost the job its lease.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from service.jobs.connection import StoreUnavailable
from service.jobs.record import StaleClaim
from service.jobs.store import JobStore
from service.log import log
from service.periodic import Periodic

RETRY = 0.5
"""Seconds between attempts to renew while Redis is unavailable: when it returns, leases may be about to expire."""

WATCHDOG_INTERVAL = 0.5
"""Seconds between checks for jobs that hang."""


@dataclass
class Lease:
    """A job held by this process. `lost`: another process holds it now. `cancel`: its owner cancelled it.
    `finished`: all steps are done and the result is on its way to storage."""

    job_id: str
    token: int
    lost: bool = False
    cancel: bool = False
    began: float = field(default_factory=time.monotonic)
    stepped: float = field(default_factory=time.monotonic)
    watched: bool = True
    finished: bool = False

    def step(self) -> None:
        """The device has finished a step."""
        self.stepped = time.monotonic()

    def finish(self) -> None:
        """All steps are done. What follows may wait for Redis and storage without limit."""
        self.watched, self.finished = False, True

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Stop the deadlines for the block, which waits for Redis, for storage or for its turn on the device."""
        self.watched, began = False, time.monotonic()
        try:
            yield
        finally:
            self.began += time.monotonic() - began
            self.step()
            self.watched = True


class Leases:
    """Renews every lease four times per lease duration, from `start()` to `stop()`.

    `hung` is called for a job that finished no step within `step_deadline` or takes longer than `job_deadline` in all;
    it must end the process. `lost` is called for each lease that another process has taken, `failed` with the name of
    a thread whose action raised.
    """

    def __init__(
        self,
        store: JobStore,
        step_deadline: timedelta,
        job_deadline: timedelta,
        hung: Callable[[Lease], None],
        lost: Callable[[], None] = lambda: None,
        failed: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._store = store
        self._step_deadline = step_deadline.total_seconds()
        self._job_deadline = job_deadline.total_seconds()
        self._hung = hung
        self._lost = lost
        self._held: list[Lease] = []
        self._lock = threading.Lock()
        interval = store.lease / 4
        retry = min(RETRY, interval)
        self._renewal = Periodic(
            "leases", self.renew, interval, retry=retry, longest=retry, expected=(StoreUnavailable,), failed=failed
        )
        self._watchdog = Periodic("watchdog", self._check_deadlines, min(WATCHDOG_INTERVAL, interval), failed=failed)

    def start(self) -> None:
        self._renewal.start()
        self._watchdog.start()

    def stop(self) -> None:
        """Stop renewing. May be called again, and before `start()`."""
        self._renewal.stop()
        self._watchdog.stop()

    @contextmanager
    def hold(self, job_id: str, token: int, watched: bool = True) -> Iterator[Lease]:
        """Keep the lease for the block."""
        lease = Lease(job_id, token, watched=watched, finished=not watched)
        with self._lock:
            self._held.append(lease)
        try:
            yield lease
        finally:
            with self._lock:
                self._held.remove(lease)

    def held(self) -> list[Lease]:
        """The leases held now."""
        with self._lock:
            return list(self._held)

    def renew(self) -> None:
        """Renew every lease now. One that fails does not keep the others from renewal; the last error is raised then,
        StoreUnavailable where Redis is the reason."""
        failure: Exception | None = None
        for lease in self.held():
            if lease.lost:
                continue
            try:
                lease.cancel |= self._store.renew(lease.job_id, lease.token)
            except StaleClaim as reason:
                lease.lost = True
                self._lost()
                log.warning("lease lost", job=lease.job_id, attempt=lease.token, reason=str(reason))
            except Exception as error:
                failure = error
        if failure is not None:
            raise failure

    def _check_deadlines(self) -> None:
        now = time.monotonic()
        for lease in self.held():
            late = now - lease.stepped > self._step_deadline or now - lease.began > self._job_deadline
            if lease.watched and late:
                self._hung(lease)
