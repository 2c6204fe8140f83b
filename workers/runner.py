"""One job from claim to commit: take the lease, fetch the upload, have the outputs made, hand them to the spool.

The maker is passed in (`workers.model_maker` with the real models), so this file is about jobs only: who holds them,
what a failure means, and when they are released.

Files go to keys that belong to the attempt. Nothing points to them until the record is completed with this attempt's
fencing token, so an attempt that was overtaken or broke off leaves nothing visible, and erases what it stored.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, TypeVar

import structlog
from prometheus_client.registry import Collector

from service.jobs.events import Preview, Previews
from service.jobs.record import Job, JobError, Progress, StaleClaim, Status, Timings
from service.jobs.store import JobStore, StoreUnavailable, UnknownJob
from service.log import log
from service.storage import ObjectNotFound, Storage, StorageUnavailable
from service.tracing import Stages, Tracing
from workers.leases import Held, Leases
from workers.metrics import WorkerMetrics
from workers.moving_average import Typical
from workers.shared_lock import Gate
from workers.spool import OVERTAKEN, Files, Spool, erase_attempt

PROGRESS_INTERVAL = 0.2
"""Seconds between two progress reports, where steps are shorter."""

SILENCE = 5.0
"""Seconds without reports once Redis did not take one: the device need not wait for it at every step."""

_T = TypeVar("_T")


class BackInQueue(Exception):
    """The job waits for its next attempt: the worker stops, or this attempt has failed."""


class Cancelled(Exception):
    """The job's owner wants it stopped."""


class CannotBeMade(Exception):
    """It is the job's own fault, and another attempt would end the same; `code` and the message are for its owner."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Maker(Protocol):
    """Makes the outputs of jobs, side by side."""

    slots: int
    """Jobs that keep it busy."""

    collectors: Sequence[Collector]
    """What it can tell of itself, for metrics."""

    def stop(self) -> None:
        """Let all jobs go that are being made, at once: `make` raises BackInQueue for each."""

    def close(self) -> None:
        """After `stop`: wait until the device is at rest."""

    def make(self, attempt: Attempt) -> list[Files]:
        """Write the files of every output to the attempt's folder; return them by name.

        Calls `attempt.begin()` when the engine begins and `attempt.report()` after every step, and lets through what
        they raise. Raises CannotBeMade; MemoryError where the device has too little; what else it raises may pass with
        the next attempt.
        """


class Attempt:
    """One attempt as the maker sees it: the job, the upload's file if it has one, a folder to write to, a clock, and
    the seconds that a job typically takes from there until it is completed."""

    def __init__(self, job: Job, source: Path | None, folder: Path, clock: Clock, held: Held, runner: Runner) -> None:
        self.job = job
        self.source = source
        self.folder = folder
        self.clock = clock
        self.afterwards = runner.delivering.seconds
        self._held = held
        self._runner = runner
        self._silent_until = 0.0

    def waiting(self) -> AbstractContextManager[None]:
        """For what may take any time without being a sign that the device hangs: the job's turn there, say."""
        return self._held.waiting()

    def check(self) -> None:
        """Raise BackInQueue, Cancelled or StaleClaim if the job is not to go on here."""
        self._runner.check(self._held)

    def begin(self) -> None:
        """The engine begins. Raises as `check`."""
        self.check()
        with self._held.waiting():
            self._runner.begin(self.job)
        self.clock.begin("base")
        self.check()

    def report(self, step: Progress) -> None:
        """A step is done. Raises as `check`."""
        self._held.step()
        self.clock.reach(step.stage)
        now = time.monotonic()
        self.check()
        if now < self._silent_until and step.step < step.total_steps:
            return
        self._silent_until = now + PROGRESS_INTERVAL
        try:
            self._held.cancel |= self._runner.store.progress(self.job.id, self.job.attempt, step)
        except StoreUnavailable as error:
            log.warning("progress not reported", job=self.job.id, error=str(error))
            self._silent_until = time.monotonic() + SILENCE
        self.check()

    def show(self, preview: Preview) -> None:
        """Let those who watch see what emerges. Raises StaleClaim as `check`."""
        try:
            self._runner.previews.publish(self.job.id, self.job.attempt, preview)
        except StoreUnavailable as error:
            log.warning("preview not shown", job=self.job.id, error=str(error))


class Clock:
    """Seconds spent in each stage, summed over the outputs; and when, by the clock on the wall, from the first output's
    beginning to the last one's end."""

    def __init__(self, **seconds: float) -> None:
        self._seconds = dict(seconds)
        self._stages: dict[str, tuple[float, float]] = {}

    @property
    def stages(self) -> Stages:
        return self._stages

    def begin(self, stage: str) -> None:
        """The stage begins now, unless it has begun."""
        self._stages.setdefault(stage, (time.time(), time.time()))

    def reach(self, stage: str) -> None:
        """The stage lasts until now at least; one that was not begun followed that which was reached last."""
        latest = max((ended for _, ended in self._stages.values()), default=time.time())
        self._stages[stage] = (self._stages.get(stage, (latest, latest))[0], time.time())

    def add(self, seconds: Mapping[str, float]) -> None:
        for stage, value in seconds.items():
            self._seconds[stage] = self._seconds.get(stage, 0.0) + value

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        self.begin(stage)
        yield
        self.add({stage: time.perf_counter() - began})
        self.reach(stage)

    @property
    def seconds(self) -> Mapping[str, float]:
        return self._seconds

    def timings(self) -> Timings:
        known = {field.name for field in fields(Timings)} & self._seconds.keys()
        return Timings(**{stage: round(self._seconds[stage], 4) for stage in known})


class Runner:
    """Runs jobs for the worker `name`, `slots` at a time, 0 for as many as keep the maker busy. `scratch` is a
    folder for temporary files, on the spool's disk."""

    def __init__(
        self,
        name: str,
        store: JobStore,
        previews: Previews,
        storage: Storage,
        maker: Maker,
        leases: Leases,
        spool: Spool,
        scratch: Path,
        slots: int = 0,
        metrics: WorkerMetrics | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.store = store
        self.previews = previews
        self._name = name
        self._storage = storage
        self._maker = maker
        self._leases = leases
        self._spool = spool
        self._scratch = scratch
        self.slots = slots or maker.slots
        self.metrics = metrics or WorkerMetrics()
        self.metrics.slots(self.slots)
        self._tracing = tracing or Tracing()
        self.delivering = Typical()
        self._gate = Gate()
        self._in_hand: set[str] = set()
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Let the running jobs go, and take no other."""
        self._stopping.set()
        self._maker.stop()

    def hand_back_all(self) -> None:
        """Let all jobs go, whatever is being done to them. For a process that ends right afterwards."""
        for held in self._leases.all():
            if held.finished:
                continue  # made: it waits in the spool, for the next worker on this machine
            try:
                self.store.hand_back(held.job_id, held.token)
                log.info("job handed back in the midst of a step", job=held.job_id, attempt=held.token)
            except OVERTAKEN as reason:
                log.info("nothing to hand back", job=held.job_id, reason=str(reason))

    def run(self, job_id: str) -> None:
        """Bring a job to its end, or back to the queue. Nothing happens if it has ended, is held, or is overtaken.

        Raises BackInQueue where it waits for another attempt, StoreUnavailable if Redis was away when this worker was
        stopped: its message is to go back then.
        """
        with self._lock:
            if job_id in self._in_hand:  # a second message for what another thread here is at
                return
            self._in_hand.add(job_id)
        try:
            while not self._run(job_id):
                pass
        finally:
            with self._lock:
                self._in_hand.remove(job_id)

    def begin(self, job: Job) -> None:
        """The engine begins with the job. Raises one of OVERTAKEN."""
        self._insist(lambda: self.store.start(job.id, job.attempt))

    def check(self, held: Held) -> None:
        """Raise BackInQueue, Cancelled or StaleClaim if the job is not to go on here."""
        if held.lost:
            raise StaleClaim(f"{held.job_id}: attempt {held.token} lost its lease")
        if held.cancel:
            raise Cancelled(held.job_id)
        if self._stopping.is_set():
            raise BackInQueue(f"{held.job_id}: the worker stops")

    def _run(self, job_id: str) -> bool:
        """False if the job has to be taken up once more, because it is to run alone."""
        try:
            alone = self.slots == 1 or self._insist(lambda: self.store.get(job_id)).alone
        except UnknownJob:
            return True
        with self._gate.enter(alone):
            if self._stopping.is_set():
                raise BackInQueue(f"{job_id}: this worker stops")
            job = self._insist(lambda: self.store.claim(job_id, self._name, alone))
            if job is None:
                log.info("nothing left to do", job=job_id)
                return True
            with (
                self._leases.hold(job.id, job.attempt) as held,
                structlog.contextvars.bound_contextvars(request_id=job.request_id),
            ):
                if job.alone and not alone:
                    self._hand_back(job)
                    return False
                log.info("job claimed", job=job.id, kind=job.kind, model=job.model, attempt=job.attempt, alone=alone)
                self._attempt(job, held)
                return True

    def _attempt(self, job: Job, held: Held) -> None:
        began, clock = time.time(), Clock(queued=(datetime.now(UTC) - job.created_at).total_seconds())
        outcome = "handed_back"
        self.metrics.claimed(job)
        try:
            outcome = self._make(job, held, clock)
        except BackInQueue:
            self._hand_back(job)
            raise
        except Cancelled:
            outcome = "canceled"
            self._stop_job(job)
        except OVERTAKEN as reason:
            outcome = "overtaken"
            self._erase_files(job)
            log.info("attempt overtaken, its files are erased", job=job.id, attempt=job.attempt, reason=str(reason))
        except StoreUnavailable:
            raise  # only when the worker stops; what was made stays in the spool, what was not is made again
        except Exception as error:
            outcome = "retried"  # unless `_fail` returns
            self._fail(job, error)
            outcome = "failed"
        finally:
            self.metrics.ended(job, outcome)
            self._tracing.attempt(job, began, time.time(), clock.stages, outcome)

    def _make(self, job: Job, held: Held, clock: Clock) -> str:
        """Return what came of it."""
        taken = time.perf_counter()
        self._scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{job.id}-", dir=self._scratch) as name:
            folder = Path(name)
            source = self._fetch(job, folder, held, clock)
            made = self._maker.make(Attempt(job, source, folder, clock, held, self))
            held.made()
            began = time.perf_counter()
            result = self._spool.add(job, made, clock.timings())
        try:
            clock.begin("upload")
            self._spool.deliver(result)
            clock.reach("upload")
            self.delivering.add(time.perf_counter() - began)
        except StorageUnavailable as error:
            log.warning("the result waits for storage", job=job.id, attempt=job.attempt, error=str(error))
            return "spooled"
        except StoreUnavailable as error:
            log.warning("the result waits for Redis", job=job.id, attempt=job.attempt, error=str(error))
            return "spooled"
        ended = time.perf_counter()
        self.metrics.completed(job, {**clock.seconds, "upload": ended - began}, ended - taken)
        seconds = {stage: round(value, 2) for stage, value in asdict(result.timings).items()}
        log.info("job completed", job=job.id, kind=job.kind, attempt=job.attempt, **seconds)
        return "completed"

    def _fetch(self, job: Job, folder: Path, held: Held, clock: Clock) -> Path | None:
        """The upload, as soon as storage hands it out."""
        if job.input is None:
            return None
        path = folder / job.input.name
        with held.waiting():
            while True:
                self.check(held)
                try:
                    with clock.time("fetch"):
                        self._storage.download(job.input.key, path)
                    return path
                except StorageUnavailable as error:
                    log.warning("waiting for storage", job=job.id, error=str(error))
                    self._stopping.wait(0.5)

    def _hand_back(self, job: Job) -> None:
        self._erase_files(job)
        try:
            self._insist(lambda: self.store.hand_back(job.id, job.attempt))
            log.info("job handed back", job=job.id, attempt=job.attempt)
        except OVERTAKEN as reason:
            log.info("attempt overtaken", job=job.id, attempt=job.attempt, reason=str(reason))

    def _stop_job(self, job: Job) -> None:
        self._erase_files(job)
        try:
            self._insist(lambda: self.store.cancelled(job.id, job.attempt))
            log.info("job cancelled", job=job.id, attempt=job.attempt)
        except OVERTAKEN as reason:
            log.info("attempt overtaken", job=job.id, attempt=job.attempt, reason=str(reason))

    def _fail(self, job: Job, error: Exception) -> None:
        failure = _job_error(error, job.attempt)
        log.error(
            "attempt failed",
            job=job.id,
            attempt=job.attempt,
            code=failure.code,
            reason=str(error),
            exc_info=error if failure.code == "internal_error" else None,
        )
        self.metrics.failed(failure.code, failure.retryable)
        self._erase_files(job)
        end = self.store.strike if failure.retryable else self.store.fail
        try:
            job = self._insist(lambda: end(job.id, job.attempt, failure))
        except OVERTAKEN as reason:
            log.info("attempt overtaken, its failure counts for nothing", job=job.id, reason=str(reason))
            return
        if job.status is Status.QUEUED:
            raise BackInQueue(f"{job.id}: tried again after strike {job.strikes}")

    def _erase_files(self, job: Job) -> None:
        erase_attempt(self._storage, job.id, job.attempt)

    def _insist(self, action: Callable[[], _T]) -> _T:
        """Write as soon as Redis takes it, however long that lasts: without it there is nothing else to do either.

        Raises StoreUnavailable on `stop()`.
        """
        while True:
            try:
                return action()
            except StoreUnavailable as error:
                if self._stopping.is_set():
                    raise
                log.warning("waiting for Redis", error=str(error))
                self._stopping.wait(0.5)


def _job_error(error: Exception, attempt: int) -> JobError:
    """The failure in words for the job's owner. What only the log should know stays there."""
    if isinstance(error, CannotBeMade):
        return JobError(error.code, str(error), False, attempt)
    if isinstance(error, ObjectNotFound):
        return JobError("input_missing", "the upload is no longer in storage", False, attempt)
    if isinstance(error, MemoryError):
        return JobError("out_of_memory", "the model needs more memory than the worker has", True, attempt)
    return JobError("internal_error", "the worker could not finish the job; its log says why", True, attempt)
