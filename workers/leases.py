"""The jobs that this process holds: their leases are renewed here, and those that hang are noticed.

In a thread of its own, so that a step that takes minutes does not cost the job its lease.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from service.jobs.record import StaleClaim
from service.jobs.store import JobStore, StoreUnavailable
from service.log import log

TICK = 0.5
"""Seconds between two looks for jobs that hang."""


@dataclass
class Held:
    """One job in hand. `lost`: another has it now. `cancel`: its owner wants it stopped. `finished`: made, and on its
    way to storage."""

    job_id: str
    token: int
    lost: bool = False
    cancel: bool = False
    began: float = field(default_factory=time.monotonic)
    stepped: float = field(default_factory=time.monotonic)
    watched: bool = True
    finished: bool = False

    def step(self) -> None:
        """The device has answered."""
        self.stepped = time.monotonic()

    def made(self) -> None:
        """All steps are done; what follows may wait for Redis and storage as long as they are away."""
        self.watched, self.finished = False, True

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """For what may have to wait for Redis or storage between two steps: that is no fault of the device."""
        self.watched, began = False, time.monotonic()
        try:
            yield
        finally:
            self.began += time.monotonic() - began
            self.step()
            self.watched = True


class Leases:
    """Renews four times a lease from `start()` to `stop()`. `hung` is called for a job that finished no step within
    `step_deadline` or takes longer than `job_deadline` in all; it is to end the process. `lost` counts the leases that
    another has now."""

    def __init__(
        self,
        store: JobStore,
        step_deadline: timedelta,
        job_deadline: timedelta,
        hung: Callable[[Held], None],
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._step_deadline = step_deadline.total_seconds()
        self._job_deadline = job_deadline.total_seconds()
        self._hung = hung
        self._lost = lost
        self._held: list[Held] = []
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Renew no more. May be called again, and before `start()`."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    @contextmanager
    def hold(self, job_id: str, token: int, watched: bool = True) -> Iterator[Held]:
        """Keep the lease for the block."""
        held = Held(job_id, token, watched=watched, finished=not watched)
        with self._lock:
            self._held.append(held)
        try:
            yield held
        finally:
            with self._lock:
                self._held.remove(held)

    def all(self) -> list[Held]:
        """What is held now."""
        with self._lock:
            return list(self._held)

    def renew(self) -> None:
        """Renew every lease now; raises StoreUnavailable."""
        for held in self.all():
            if held.lost:
                continue
            try:
                held.cancel |= self._store.renew(held.job_id, held.token)
            except StaleClaim as reason:
                held.lost = True
                self._lost()
                log.warning("lease lost", job=held.job_id, attempt=held.token, reason=str(reason))

    def _run(self) -> None:
        interval = self._store.lease / 4
        due, answers = time.monotonic() + interval, True
        while not self._stopped.wait(min(TICK, interval)):
            self._watch()
            if time.monotonic() < due:
                continue
            try:
                self.renew()
                answers = True
            except StoreUnavailable as error:
                if answers:
                    log.warning("leases cannot be renewed", error=str(error))
                answers = False
            # Redis may have come back with leases that are about to run out: it is asked more often until it answers.
            due = time.monotonic() + (interval if answers else TICK)

    def _watch(self) -> None:
        now = time.monotonic()
        for held in self.all():
            late = now - held.stepped > self._step_deadline or now - held.began > self._job_deadline
            if held.watched and late:
                self._hung(held)
