"""One job from claim to commit: take the lease, fetch the upload, make the outputs, pass them to the spool.

The maker is a parameter (`workers.model_maker` has the real one), so this file is about jobs only: who holds them, what
a failure means, and when they are released.

Files go to keys that belong to the attempt. Nothing points to them until the record is completed with this attempt's
fencing token, so an attempt that was overtaken or interrupted leaves nothing visible, and erases what it stored.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn, Protocol, TypeVar

import structlog
from prometheus_client.registry import Collector

from model.checkpoint.model_folders import Changes
from model.media.edits import MASK_NAME
from service.jobs.connection import StoreUnavailable
from service.jobs.events import Preview, Previews
from service.jobs.queue import QueueUnavailable
from service.jobs.record import Job, JobError, Progress, Scores, StaleClaim, Status, Timings, UnreadableRecord
from service.jobs.records import UnknownJob
from service.jobs.speeds import Speed
from service.jobs.store import JobStore
from service.log import log
from service.storage import ObjectNotFound, Storage, StorageFull, StorageUnavailable
from service.tracing import Stages, Tracing
from workers.disk_space import DiskSpace, is_disk_full
from workers.leases import Lease, Leases
from workers.long_places import LongPlaces
from workers.metrics import WorkerMetrics
from workers.moving_average import MovingAverage
from workers.shared_lock import SharedLock
from workers.spool import OVERTAKEN, Files, Spool, erase_attempt

PROGRESS_INTERVAL = 0.2
"""Seconds between two progress reports, where steps are shorter."""

REPORT_PAUSE = 5.0
"""Seconds without reports after Redis failed to accept one, so that not every step waits for it."""

FREE_ATTEMPTS = 10
"""Attempts of a job up to which a fault of the worker costs no strike, so that no job is retried for ever."""

LONGEST_TURN = 600.0
"""Seconds after which a message's thread begins no other job: brokers take back messages that are not acknowledged."""

RETRY_INTERVAL = 0.5
"""Seconds between attempts while Redis or storage is unavailable, or the disk is full."""

_T = TypeVar("_T")


class BackInQueue(Exception):
    """The job is queued for its next attempt: the worker stops, or this attempt has failed."""


class Cancelled(Exception):
    """The job's owner has cancelled it."""


class CannotBeMade(Exception):
    """The job itself is at fault, and another attempt would fail too; `code` and the message are for its owner."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class WorkerFault(Exception):
    """The worker is at fault, not the job: the job is handed back without a strike."""


class ModelMissing(Exception):
    """The worker has lost the job's model since it claimed the job, or cannot load it."""


class Maker(Protocol):
    """Makes the outputs of several jobs at a time."""

    slots: int
    """Number of jobs that keep it busy."""

    collectors: Sequence[Collector]
    """Its metrics."""

    def serves(self, model: str) -> bool:
        """Whether it has the model of this name."""

    def reload(self) -> Changes:
        """Read the folders of models again, and serve what they hold from now on; running jobs keep what they have.

        Raises BrokenModel, and then nothing changes.
        """

    def preload(self) -> None:
        """Load models before a job needs them, as far as there is room."""

    def is_long(self, job: Job) -> bool:
        """Whether the job makes clips of several windows, which may keep a slot for minutes."""

    def stop(self) -> None:
        """Abort all jobs at once: `make` raises BackInQueue for each."""

    def close(self) -> None:
        """After `stop`: wait until the device is idle."""

    def make(self, attempt: Attempt) -> list[Files]:
        """Write the files of every output to the attempt's folder; return them by name.

        Calls `attempt.begin()` when the engine begins and `attempt.report()` after every step, and lets their
        exceptions through. Calls `attempt.loading()` if it has to load the model first. Raises CannotBeMade;
        ModelMissing; WorkerFault; MemoryError where the device has too little memory. After
        any other error the next attempt may succeed.
        """


class Attempt:
    """One attempt, as the maker sees it: the job, the file of its upload if it has one, a folder to write to, a clock,
    the average seconds from the last step until a job is completed, and the scores by output, which the maker fills
    in."""

    def __init__(
        self, job: Job, source: Path | None, folder: Path, clock: StageClock, lease: Lease, runner: Runner
    ) -> None:
        self.job = job
        self.source = source
        self.folder = folder
        self.clock = clock
        self.afterwards = runner.delivery.seconds
        self.scores: dict[int, Scores] = {}
        self._lease = lease
        self._runner = runner
        self._next_report = 0.0

    def waiting(self) -> AbstractContextManager[None]:
        """For waits that do not mean that the device hangs, such as for the job's turn."""
        return self._lease.waiting()

    def check(self) -> None:
        """Raise BackInQueue, Cancelled or StaleClaim if the attempt must stop."""
        self._runner.check(self._lease)

    def loading(self) -> None:
        """The model has to be loaded first. Raises as `check`."""
        self.check()
        self._runner.model_loading(self.job)

    def begin(self) -> None:
        """The engine begins with the job. Raises as `check`."""
        self.check()
        with self._lease.waiting():
            self._runner.begin(self.job)
        self.clock.begin("base")
        self.check()

    def report(self, step: Progress) -> None:
        """A step is done. Raises as `check`."""
        self._lease.step()
        self.clock.reach(step.stage)
        now = time.monotonic()
        self.check()
        if now < self._next_report and step.step < step.total_steps:
            return
        self._next_report = now + PROGRESS_INTERVAL
        try:
            self._lease.cancel |= self._runner.store.progress(self.job.id, self.job.attempt, step)
        except StoreUnavailable as error:
            log.warning("progress not reported", job=self.job.id, error=str(error))
            self._next_report = time.monotonic() + REPORT_PAUSE
        self.check()

    def show(self, preview: Preview) -> None:
        """Publish a preview to those who watch the job. Raises StaleClaim as `check`."""
        try:
            self._runner.previews.publish(self.job.id, self.job.attempt, preview)
        except StoreUnavailable as error:
            log.warning("preview not shown", job=self.job.id, error=str(error))

    def measured(self, speed: Speed) -> None:
        """Publish what the job took, from which clients estimate the next one."""
        try:
            self._runner.store.speeds.add(self.job.model, self.job.kind, speed)
        except StoreUnavailable as error:
            log.warning("speed not published", job=self.job.id, error=str(error))


class StageClock:
    """Seconds spent in each stage, summed over the outputs; and the wall-clock times of each stage, from the start of
    the first output to the end of the last."""

    def __init__(self, **seconds: float) -> None:
        self._seconds = dict(seconds)
        self._stages: dict[str, tuple[float, float]] = {}

    @property
    def stages(self) -> Stages:
        return self._stages

    def begin(self, stage: str) -> None:
        """The stage begins now, unless it has begun already."""
        self._stages.setdefault(stage, (time.time(), time.time()))

    def reach(self, stage: str) -> None:
        """The stage lasts at least until now. One that was not begun follows the latest one."""
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
    """Runs jobs for the worker `name`, `slots` at a time, or with 0 as many as keep the maker busy. `scratch` is a
    folder for temporary files, on the same disk as the spool. `model_patience`: how long a job waits for a worker that
    has its model before it fails. `wake` sends the message of a job that has waited for a place, if it is queued; it
    may raise StoreUnavailable or QueueUnavailable. `follow` takes the models of the latest reload; it is called before
    a job is claimed, so that a job accepted after a reload never runs with what was before."""

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
        disk: DiskSpace | None = None,
        model_patience: timedelta = timedelta(days=1),
        wake: Callable[[str], bool] = lambda job_id: False,
        follow: Callable[[], None] = lambda: None,
    ) -> None:
        self.store = store
        self.previews = previews
        self._name = name
        self._storage = storage
        self._maker = maker
        self._leases = leases
        self._spool = spool
        self._scratch = scratch
        self.disk = disk or DiskSpace(scratch)
        self.slots = slots or maker.slots
        self.metrics = metrics or WorkerMetrics()
        self.metrics.slots(self.slots)
        self._tracing = tracing or Tracing()
        self._model_patience = model_patience
        self._wake = wake
        self._follow = follow
        self._long_places = LongPlaces(self.slots)
        self.delivery = MovingAverage()
        self._exclusion = SharedLock()
        self._in_hand: set[str] = set()
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Abort the running jobs, and take no other."""
        self._stopping.set()
        self._maker.stop()

    def hand_back_all(self) -> None:
        """Hand back all unfinished jobs in the middle of a step. For a process that exits right afterwards.

        Raises StoreUnavailable.
        """
        for lease in self._leases.held():
            if lease.finished:
                continue  # its result is in the spool, for the next worker on this machine
            try:
                self.store.hand_back(lease.job_id, lease.token)
                log.info("job handed back in the middle of a step", job=lease.job_id, attempt=lease.token)
            except OVERTAKEN as reason:
                log.info("nothing to hand back", job=lease.job_id, reason=str(reason))

    def run(self, job_id: str) -> None:
        """Run a job until it has ended or is queued again; then the long jobs that wait here, while there is a place
        and until LONGEST_TURN. Nothing happens to a job that has ended or that another process holds.

        Raises BackInQueue if `job_id` is queued for another attempt, StoreUnavailable if Redis is unavailable when this
        worker stops: its message must be requeued then. What happens to the other jobs raises nothing: their messages
        were acknowledged when they began to wait, so this sends new ones.
        """
        with self._lock:
            if job_id in self._in_hand:  # a second message for a job that another thread runs
                return
            self._in_hand.add(job_id)
        until = time.monotonic() + LONGEST_TURN
        try:
            self._run_in_hand(job_id)
        except Exception:  # its message must not wait for other jobs
            self._send_next()
            raise
        while (waiting := self._next_waiting()) is not None:
            if time.monotonic() > until:
                self._put_down(waiting)
                if not self._send(waiting):
                    self._send_next()
                return
            try:
                self._run_in_hand(waiting)
            except (BackInQueue, StoreUnavailable) as error:
                log.info("long job back in the queue", job=waiting, reason=str(error))
                self._send(waiting)
            except Exception:  # of this job, not of the one whose message this thread has
                log.exception("long job ended unexpectedly", job=waiting)
                self._send(waiting)

    def _send_next(self) -> None:
        """Send the message of the long job that has waited longest for a place, if there is one now."""
        while (waiting := self._next_waiting()) is not None:
            self._put_down(waiting)
            if self._send(waiting):
                return

    def _run_in_hand(self, job_id: str) -> None:
        """Run a job that this thread has in hand, and put it down."""
        try:
            while not self._run(job_id):
                pass
        finally:
            self._put_down(job_id)

    def _put_down(self, job_id: str) -> None:
        with self._lock:
            self._in_hand.remove(job_id)

    def _next_waiting(self) -> str | None:
        """Take the long job in hand that has waited longest for a place, if there is one now."""
        with self._lock:
            waiting = None if self._stopping.is_set() else self._long_places.next(self._in_hand)
            if waiting is not None:
                self._in_hand.add(waiting)
            return waiting

    def _send(self, job_id: str) -> bool:
        """Send the message of a job that waits no longer here. False if the job needs none any more."""
        try:
            return self._wake(job_id)
        except (StoreUnavailable, QueueUnavailable) as error:
            log.warning("message not sent: the reaper will send it", job=job_id, error=str(error))
            return True

    def begin(self, job: Job) -> None:
        """The engine begins with the job. Raises one of OVERTAKEN."""
        self._persist(lambda: self.store.start(job.id, job.attempt))

    def model_loading(self, job: Job) -> None:
        """The job waits for its model. Raises one of OVERTAKEN."""
        self._persist(lambda: self.store.model_loading(job.id, job.attempt))

    def check(self, lease: Lease) -> None:
        """Raise BackInQueue, Cancelled or StaleClaim if the attempt must stop."""
        if lease.lost:
            raise StaleClaim(f"{lease.job_id}: attempt {lease.token} lost its lease")
        if lease.cancel:
            raise Cancelled(lease.job_id)
        if self._stopping.is_set():
            raise BackInQueue(f"{lease.job_id}: the worker stops")

    def _run(self, job_id: str) -> bool:
        """False if the job must be claimed once more, because it has to run alone."""
        try:
            queued = self._persist(lambda: self.store.get(job_id))
        except (UnknownJob, UnreadableRecord):
            return True
        self._follow()
        if not queued.status.ended and not self._maker.serves(queued.model):
            log.warning("job left in the queue: this worker does not have its model", job=job_id, model=queued.model)
            self._wait_for_model(job_id)
            return True
        if queued.status.ended or not self._maker.is_long(queued):
            return self._run_in_place(queued)
        if not self._long_places.take(job_id):
            log.info("long job left in the queue: the other slots are for short jobs", job=job_id)
            self._persist(lambda: self.store.offer_later(job_id, self._long_places.retry))
            return True
        try:
            return self._run_in_place(queued)
        finally:
            self._long_places.leave()

    def _run_in_place(self, queued: Job) -> bool:
        """See `_run`."""
        job_id = queued.id
        self._wait_for_room(job_id)
        alone = self.slots == 1 or queued.alone
        with self._exclusion.hold(exclusive=alone):
            if self._stopping.is_set():
                raise BackInQueue(f"{job_id}: this worker stops")
            job = self._persist(lambda: self.store.claim(job_id, self._name, alone))
            if job is None:
                log.info("nothing to do", job=job_id)
                return True
            with (
                self._leases.hold(job.id, job.attempt) as lease,
                structlog.contextvars.bound_contextvars(request_id=job.request_id),
            ):
                if job.alone and not alone:
                    self._hand_back(job)
                    return False
                log.info("job claimed", job=job.id, kind=job.kind, model=job.model, attempt=job.attempt, alone=alone)
                self._attempt(job, lease)
                return True

    def _wait_for_model(self, job_id: str) -> None:
        """Leave the job to a worker that has its model."""
        with suppress(*OVERTAKEN):  # ended, or claimed by a worker that has the model
            self._persist(lambda: self.store.model_missing(job_id, self._model_patience))

    def _wait_for_room(self, job_id: str) -> None:
        """Wait until the disk has room. Raises BackInQueue on `stop()`."""
        if not self.disk.has_room():
            log.error("the disk is full: this worker takes no jobs until there is room", folder=str(self._scratch))
            while not self.disk.has_room():
                if self._stopping.wait(RETRY_INTERVAL):
                    raise BackInQueue(f"{job_id}: this worker stops")
            log.info("the disk has room again", folder=str(self._scratch))

    def _attempt(self, job: Job, lease: Lease) -> None:
        began, clock = time.time(), StageClock(queued=(datetime.now(UTC) - job.created_at).total_seconds())
        outcome = "handed_back"
        self.metrics.claimed(job)
        try:
            outcome = self._make(job, lease, clock)
        except BackInQueue:
            self._hand_back(job)
            raise
        except ModelMissing as reason:
            log.warning("job back in the queue: its model is not available", job=job.id, reason=str(reason))
            self._hand_back(job)
            self._wait_for_model(job.id)
        except Cancelled:
            outcome = "canceled"
            self._release(job, self.store.cancelled, "job cancelled")
        except OVERTAKEN as reason:
            outcome = "overtaken"
            self._erase_files(job)
            log.info("attempt overtaken, its files are erased", job=job.id, attempt=job.attempt, reason=str(reason))
        except StoreUnavailable:
            raise  # only when the worker stops: a finished result stays in the spool, any other job runs again
        except Exception as error:
            if is_disk_full(error) or (isinstance(error, WorkerFault) and job.attempt < FREE_ATTEMPTS):
                self._excuse(job, error)
            outcome = "retried"  # unless `_fail` returns
            self._fail(job, error)
            outcome = "failed"
        finally:
            self.metrics.ended(job, outcome)
            self._tracing.attempt(job, began, time.time(), clock.stages, outcome)

    def _make(self, job: Job, lease: Lease, clock: StageClock) -> str:
        """Return the outcome, one of `workers.metrics.OUTCOMES`."""
        claimed = time.perf_counter()
        self._scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{job.id}-", dir=self._scratch) as name:
            folder = Path(name)
            source = self._fetch(job, folder, lease, clock)
            attempt = Attempt(job, source, folder, clock, lease, self)
            made = self._maker.make(attempt)
            lease.finish()
            began = time.perf_counter()
            result = self._spool.add(job, made, clock.timings(), attempt.scores)
        try:
            clock.begin("upload")
            self._spool.deliver(result)
            clock.reach("upload")
            self.delivery.add(time.perf_counter() - began)
        except (StorageUnavailable, StoreUnavailable) as error:
            waits_for = "storage" if isinstance(error, StorageUnavailable) else "Redis"
            log.warning(f"the result waits for {waits_for}", job=job.id, attempt=job.attempt, error=str(error))
            return "spooled"
        ended = time.perf_counter()
        self.metrics.completed(job, {**clock.seconds, "upload": ended - began}, ended - claimed)
        seconds = {stage: round(value, 2) for stage, value in asdict(result.timings).items()}
        log.info("job completed", job=job.id, kind=job.kind, attempt=job.attempt, **seconds)
        return "completed"

    def _fetch(self, job: Job, folder: Path, lease: Lease, clock: StageClock) -> Path | None:
        """Download the upload, and its mask beside it; waits while storage is unavailable."""
        if job.input is None:
            return None
        if job.edit is not None and job.edit.mask is not None:
            self._download(job.edit.mask.key, folder / MASK_NAME, lease, clock)
        return self._download(job.input.key, folder / job.input.name, lease, clock)

    def _download(self, key: str, path: Path, lease: Lease, clock: StageClock) -> Path:
        with lease.waiting():
            while True:
                self.check(lease)
                try:
                    with clock.time("fetch"):
                        self._storage.download(key, path)
                    return path
                except StorageFull:
                    raise  # of this worker's disk: a store that is read has no use for space
                except StorageUnavailable as error:
                    log.warning("waiting for storage", job=lease.job_id, error=str(error))
                    self._stopping.wait(RETRY_INTERVAL)

    def _excuse(self, job: Job, error: Exception) -> NoReturn:
        """Hand the job back after a fault of this worker. Raises BackInQueue."""
        if is_disk_full(error):
            self.disk.ran_out()
        log.error("attempt failed by the worker's fault", job=job.id, attempt=job.attempt, reason=str(error))
        self._hand_back(job)
        self._stopping.wait(RETRY_INTERVAL)
        raise BackInQueue(f"{job.id}: {error}") from error

    def _hand_back(self, job: Job) -> None:
        self._release(job, self.store.hand_back, "job handed back")

    def _release(self, job: Job, end: Callable[[str, int], Job], done: str) -> None:
        """End the attempt by `end`; log `done`."""
        self._erase_files(job)
        try:
            self._persist(lambda: end(job.id, job.attempt))
            log.info(done, job=job.id, attempt=job.attempt)
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
            job = self._persist(lambda: end(job.id, job.attempt, failure))
        except OVERTAKEN as reason:
            log.info("attempt overtaken, its failure counts for nothing", job=job.id, reason=str(reason))
            return
        if job.status is Status.QUEUED:
            raise BackInQueue(f"{job.id}: tried again after strike {job.strikes}")

    def _erase_files(self, job: Job) -> None:
        erase_attempt(self._storage, job.id, job.attempt)

    def _persist(self, action: Callable[[], _T]) -> _T:
        """Retry `action` until Redis is available. Raises StoreUnavailable after `stop()`."""
        while True:
            try:
                return action()
            except StoreUnavailable as error:
                if self._stopping.is_set():
                    raise
                log.warning("waiting for Redis", error=str(error))
                self._stopping.wait(RETRY_INTERVAL)


def _job_error(error: Exception, attempt: int) -> JobError:
    """The failure in words for the job's owner, without details that belong in the log only."""
    if isinstance(error, CannotBeMade):
        return JobError(error.code, str(error), False, attempt)
    if isinstance(error, ObjectNotFound):
        return JobError("input_missing", "the upload is no longer in storage", False, attempt)
    if isinstance(error, MemoryError):
        return JobError("out_of_memory", "the model needs more memory than the worker has", True, attempt)
    return JobError("internal_error", "the worker could not finish the job; its log says why", True, attempt)
