"""The reaper: requeues jobs of dead workers and jobs that lost their message.

It is stateless: any number of reapers may run and repeat each other's work. The state machine takes a job away
(`record.abandon`) by compare-and-set; a superfluous message finds nothing to claim.

A round handles:

- Expired leases: the worker is dead, hangs, or is cut off from Redis. The job is requeued, with a strike if it ran
  alone. For one lease after an outage of Redis nothing is taken, so that live workers can renew their leases.
- Queued jobs without a holder and without a message. Redis' transport drops a message whose reader dies between popping
  and recording it (kombu #305, celery #7950); a killed worker keeps its messages until the visibility timeout; and an
  API process may die between writing the record and sending the message.
- Messages whose priority has risen with their age (`JobQueue.age`).
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
"""Rounds of `JobQueue.age` per ageing period. Each reads the whole queue."""


class Reaper:
    """Runs rounds in a thread from `start()` to `stop()`; `round()` can be called alone.

    `ageing`: seconds of waiting that raise a job's priority by one. `abandoned` is called with each job that was taken
    from a dead worker, `failed` with the thread's name for each round that fails.
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
        """One round. Raises StoreUnavailable or QueueUnavailable."""
        if self._settled():
            for job_id in self._store.leases_run_out():
                if job := self._store.abandon(job_id):
                    self._report(job)
        self.wake()
        if time.monotonic() - self._aged >= self._ageing / AGEING_ROUNDS:
            self._aged = time.monotonic()
            self._queue.age(self._ageing)

    def worker_died(self, name: str) -> None:
        """Requeue the jobs of the worker whose name begins with `name` at once, because it is known to be dead.

        Raises StoreUnavailable or QueueUnavailable.
        """
        for held in self._store.held(name):
            if job := self._store.abandon(held.id, known_dead=True):
                self._report(job)
        self.wake()

    def nobody_works(self) -> int:
        """Requeue all held jobs, because no worker is running. Counts no strikes: whatever ended the workers ended
        everything. Results in a spool keep their lease.

        Returns the number of queued jobs. Raises StoreUnavailable or QueueUnavailable.
        """
        for job in self._store.held(""):
            if job.holder and not job.holder.endswith(SPOOL):
                # the lease may have expired meanwhile
                with contextlib.suppress(UnknownJob, UnreadableRecord, StaleClaim, IllegalTransition):
                    self._store.hand_back(job.id, job.attempt)
        self.wake()
        return self._store.count_queued()

    def wake(self) -> None:
        """Send a message for each job that should have been claimed by now and has no message.

        Raises StoreUnavailable or QueueUnavailable.
        """
        overdue = self._store.without_message()
        if not overdue:
            return
        waiting = self._queue.waiting()
        for job_id in overdue:
            if job_id not in waiting:
                self.send(job_id)
        self._store.expect_claims(overdue)

    def send(self, job_id: str, waited: bool = False) -> bool:
        """Send a message for a job, if it is queued and nobody holds it; `waited` as in `JobQueue.enqueue`. Returns
        whether it was sent. Raises StoreUnavailable or QueueUnavailable."""
        try:
            job = self._store.get(job_id)
        except (UnknownJob, UnreadableRecord):  # erased meanwhile, or written by another version
            return False
        if job.status is not Status.QUEUED or job.holder is not None:
            return False
        self._queue.enqueue(job, waited)
        log.info("job sent to the queue again", job=job.id, attempt=job.attempt)
        return True

    def _settled(self) -> bool:
        """Whether Redis has been up long enough for every live worker to renew its leases.

        Redis reports its uptime by the wall clock, which may be set back, so the time since this reaper first saw this
        run of Redis counts too.
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
