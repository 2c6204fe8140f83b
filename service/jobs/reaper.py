"""The reaper: what a dead worker held, and what lost its message, is brought back to the queue.

It keeps nothing that matters: any number of them may run, and each may do all of the work again. A job is taken away by
the state machine (`record.abandon`) behind the compare-and-set of the store; a message too many finds nothing to claim.

Three things are looked for:

- Leases that ran out: the worker is dead, hangs, or is cut off from Redis. The job waits again, with one strike more
  if it was alone. For one lease after Redis came back nothing is taken: live workers need the time to renew theirs.
- Jobs that wait, that nobody holds, and for which no message is in the queue. Redis' transport drops a message whose
  reader dies between taking it off the list and writing down that it did (kombu #305, celery #7950); a worker that is
  killed takes its messages with it until the visibility timeout; and who accepted a job may die before it sent any.
- Messages that have waited so long that they count as more urgent now (`JobQueue.age`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from service.jobs.connection import StoreUnavailable
from service.jobs.queue import JobQueue, QueueUnavailable
from service.jobs.record import SPOOL, IllegalTransition, Job, StaleClaim, Status, UnreadableRecord
from service.jobs.records import AGEING, UnknownJob
from service.jobs.store import JobStore
from service.log import log
from service.periodic import Periodic

INTERVAL = 1.0
"""Seconds between two rounds."""

AGEING_ROUNDS = 60
"""How often a message is looked at before it counts as more urgent: it reads the whole queue."""


class Reaper:
    """Goes its rounds in a thread from `start()` to `stop()`; `round()` can be called alone.

    `ageing`: seconds of waiting that raise a job's priority by one. `abandoned` is called with each job that was
    taken from a dead worker, `failed` with the task's name for each round that fails.
    """

    def __init__(
        self,
        store: JobStore,
        queue: JobQueue,
        ageing: float = AGEING,
        abandoned: Callable[[Job], None] = lambda job: None,
        failed: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._abandoned = abandoned
        self._store = store
        self._queue = queue
        self._ageing = ageing
        self._aged = 0.0
        self._away = 0.0
        self._run_id, self._seen = "", 0.0
        expected = (StoreUnavailable, QueueUnavailable)
        self._rounds = Periodic("reaper", self._go_round, INTERVAL, expected=expected, failed=failed)

    def start(self) -> None:
        self._rounds.start()

    def stop(self) -> None:
        """End the thread. May be called again, and before `start()`."""
        self._rounds.stop()

    def round(self) -> None:
        """Look once. Raises StoreUnavailable or QueueUnavailable."""
        if self._settled():
            for job_id in self._store.leases_run_out():
                if job := self._store.abandon(job_id):
                    self._report(job)
        self.wake()
        if time.monotonic() - self._aged >= self._ageing / AGEING_ROUNDS:
            self._aged = time.monotonic()
            self._queue.age(self._ageing)

    def worker_died(self, name: str) -> None:
        """For whoever knows that the worker whose name begins so is dead: take what it held at once.

        Raises StoreUnavailable or QueueUnavailable.
        """
        for held in self._store.held(name):
            if job := self._store.abandon(held.id, known_dead=True):
                self._report(job)
        self.wake()

    def nobody_works(self) -> int:
        """For whoever knows that no worker runs at all: what was held waits again. Nothing is counted against a job,
        for what ended its worker ended everything. Results in a spool keep their lease.

        Returns how many jobs wait. Raises StoreUnavailable or QueueUnavailable.
        """
        for job in self._store.held(""):
            if job.holder and not job.holder.endswith(SPOOL):
                with contextlib.suppress(
                    UnknownJob, UnreadableRecord, StaleClaim, IllegalTransition
                ):  # the lease ran out meanwhile
                    self._store.hand_back(job.id, job.attempt)
        self.wake()
        return self._store.count_queued()

    def wake(self) -> None:
        """Send a message for each job that should have been claimed by now and has none.

        Raises StoreUnavailable or QueueUnavailable.
        """
        overdue = self._store.without_message()
        if not overdue:
            return
        waiting = self._queue.waiting()
        for job_id in overdue:
            if job_id not in waiting:
                self._send(job_id)
        self._store.expect_claims(overdue)

    def _send(self, job_id: str) -> None:
        try:
            job = self._store.get(job_id)
        except (UnknownJob, UnreadableRecord):  # erased meanwhile, or of another version
            return
        if job.status is Status.QUEUED and job.holder is None:
            self._queue.enqueue(job)
            log.info("job sent to the queue again", job=job.id, attempt=job.attempt)

    def _settled(self) -> bool:
        """Whether Redis has been up long enough for every live worker to have renewed its leases.

        Its uptime is by the clock on the wall, which may be set back: the time since this reaper first saw this run of
        Redis counts too.
        """
        run_id, uptime = self._store.server()
        now = time.monotonic()
        if run_id != self._run_id:
            self._run_id, self._seen = run_id, now
        return min(max(uptime, now - self._seen), now - self._away) > self._store.lease

    def _go_round(self) -> None:
        try:
            self.round()
        except (StoreUnavailable, QueueUnavailable):
            self._away = time.monotonic()
            raise

    def _report(self, job: Job) -> None:
        self._abandoned(job)
        log.warning(
            "a worker lost its job",
            job=job.id,
            attempt=job.attempt,
            status=str(job.status),
            strikes=job.strikes,
            alone=job.alone,
            request_id=job.request_id,
        )
