"""Finished results waiting for upload. A result is not computed again because storage or Redis is unavailable.

A result is first moved to a folder of its own below the spool, on this machine's disk, and the record is handed from
the process to that place. From there it is uploaded and committed: at once by the thread that made it or, where that
fails or the worker dies, repeatedly by the spool thread of any worker on this machine. An entry is a folder
`{job}-{attempt}` with the files and `result.json`. A rename makes it visible, complete. A flock on its `result.json`
marks it as being delivered; the lock ends with the process.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from service.jobs.connection import StoreUnavailable
from service.jobs.record import (
    SPOOL,
    IllegalTransition,
    Job,
    JobError,
    Output,
    Scores,
    StaleClaim,
    Timings,
    storage_prefix,
)
from service.jobs.records import UnknownJob
from service.jobs.store import JobStore
from service.log import log
from service.periodic import Periodic
from service.storage import Storage, StorageUnavailable
from service.storage.folder import flush
from workers.leases import Leases
from workers.ranking import kept

INTERVAL = 1.0
"""Seconds between two rounds of the spool thread."""

LONGEST_PAUSE = 30.0
"""Seconds at most between two attempts to deliver one result."""

ATTEMPTS = 10
"""Unexpected errors in the delivery of one result after which it is given up, and the job is run again."""

ABANDONED_SECONDS = 3600.0
"""Age at which incomplete and unreadable entries are erased. Their writer is dead and their job has been requeued."""

CONTENT_TYPES = {
    ".mp4": "video/mp4",
    ".wav": "audio/wav",
    ".webp": "image/webp",
    ".png": "image/png",
    ".json": "application/json",
}

OVERTAKEN = (StaleClaim, IllegalTransition, UnknownJob)
"""Another worker has the job, or it has ended or been erased."""

_RESULT = "result.json"

Files = dict[str, Path]
"""The files of one output by name."""


class UnreadableEntry(Exception):
    """A folder of the spool whose `result.json` cannot be parsed."""


@dataclass(frozen=True)
class SpooledResult:
    """The outputs of an attempt. Their keys in storage are also paths below `folder`."""

    folder: Path
    job_id: str
    token: int
    outputs: tuple[Output, ...]
    timings: Timings

    def path(self, key: str) -> Path:
        return self.folder / Path(key).relative_to(f"{storage_prefix(self.job_id)}attempt-{self.token}")


@dataclass
class _Adopted:
    """A result that the spool thread delivers. `stack` holds its lock and its lease; the next attempt is `due` by the
    monotonic clock; `errors` counts the unexpected ones."""

    result: SpooledResult
    stack: ExitStack
    due: float = 0.0
    pause: float = INTERVAL
    errors: int = 0

    def postpone(self) -> None:
        self.due = time.monotonic() + self.pause
        self.pause = min(2 * self.pause, LONGEST_PAUSE)


class Spool:
    """The undelivered results below `folder`. A thread delivers them from `start()` to `stop()`; `failed` is called
    with its name when it meets an unexpected error."""

    def __init__(
        self,
        folder: Path,
        store: JobStore,
        storage: Storage,
        leases: Leases,
        failed: Callable[[str], None] = lambda name: None,
    ) -> None:
        self.holder = socket.gethostname() + SPOOL
        self._folder = folder
        self._store = store
        self._storage = storage
        self._leases = leases
        self._adopted: dict[Path, _Adopted] = {}
        self._unreadable: set[Path] = set()
        self._stopping = threading.Event()
        self._failed = failed
        self._thread = Periodic(
            "spool", self.round, INTERVAL, retry=INTERVAL, expected=(StoreUnavailable,), failed=failed
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the delivery in progress. May be called again, and before `start()`."""
        self._stopping.set()
        self._thread.stop()
        for adopted in self._adopted.values():
            adopted.stack.close()
        self._adopted.clear()

    def add(
        self, job: Job, made: list[Files], timings: Timings, scores: Mapping[int, Scores] | None = None
    ) -> SpooledResult:
        """Move the files of every output that is kept into a new entry on the same disk, and erase those of the others.
        `scores`: by index. Raises OSError, and leaves nothing behind then."""
        partial = self._folder / f".{job.id}-{job.attempt}"
        final = self._folder / f"{job.id}-{job.attempt}"
        shutil.rmtree(partial, ignore_errors=True)
        scores = scores or {}
        best = kept(scores, len(made), job.params.keep, job.params.rank_by)
        dropped = [index for index in range(len(made)) if index not in best]
        keys = {index: {name: job.attempt_key(f"{index}/{name}") for name in made[index]} for index in best}
        outputs = tuple(
            Output(index, job.params.seed, keys.get(index, {}), scores.get(index, Scores()))
            for index in (*best, *dropped)
        )
        for path in (path for index in dropped for path in made[index].values()):
            path.unlink()
        entry = {"job": job.id, "token": job.attempt, "timings": asdict(timings)}
        entry["outputs"] = [asdict(output) for output in outputs]
        try:
            for index in best:
                (partial / str(index)).mkdir(parents=True)
                for name, path in made[index].items():
                    os.replace(path, partial / str(index) / name)
                    flush(partial / str(index) / name)
            (partial / _RESULT).write_text(json.dumps(entry), encoding="utf-8")
            flush(partial / _RESULT)
            os.rename(partial, final)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        flush(self._folder)
        return SpooledResult(final, job.id, job.attempt, outputs, timings)

    def deliver(self, result: SpooledResult) -> bool:
        """Upload and commit, then erase the entry. False if another process is delivering it.

        Raises StorageUnavailable or StoreUnavailable: the entry stays, and the spool thread retries. Raises one of
        OVERTAKEN if the attempt is no longer current: the entry and the uploaded files have been erased then.
        """
        with _locked(result.folder) as ours:
            if ours:
                self._deliver(result)
        return ours

    def waiting(self) -> list[SpooledResult]:
        """The undelivered results. Stray files and unreadable entries are skipped, and logged once."""
        results = []
        for folder in sorted(self._folder.glob("[!.]*")) if self._folder.is_dir() else []:
            try:
                result = _read(folder)
            except (UnreadableEntry, OSError) as error:
                if folder not in self._unreadable:
                    self._unreadable.add(folder)
                    log.warning("spool entry skipped: it cannot be read", entry=folder.name, error=str(error))
            else:
                if result is not None:
                    results.append(result)
        return results

    def round(self) -> None:
        """Adopt the entries that no process is delivering, and try each that is due. Raises StoreUnavailable."""
        self._tidy()
        for result in self.waiting():
            if result.folder not in self._adopted and (stack := self._adopt(result)):
                self._adopted[result.folder] = _Adopted(result, stack)
        for folder, adopted in list(self._adopted.items()):
            if self._stopping.is_set():
                return
            if time.monotonic() < adopted.due:
                continue
            if self._retry(adopted):
                adopted.stack.close()
                del self._adopted[folder]
            else:
                adopted.postpone()

    def _deliver(self, result: SpooledResult) -> None:
        try:
            self._store.spooled(result.job_id, result.token, self.holder)
            for output in result.outputs:
                for name, key in output.files.items():
                    self._storage.put_file(key, result.path(key), CONTENT_TYPES[Path(name).suffix])
            self._store.complete(result.job_id, result.token, list(result.outputs), result.timings)
        except OVERTAKEN:
            if not self._committed(result):
                erase_attempt(self._storage, result.job_id, result.token)
                _remove(result.folder)
                raise
        _remove(result.folder)

    def _committed(self, result: SpooledResult) -> bool:
        """Whether an earlier delivery committed and its answer was lost."""
        try:
            return self._store.get(result.job_id).outputs == result.outputs
        except UnknownJob:
            return False

    def _adopt(self, result: SpooledResult) -> ExitStack | None:
        with ExitStack() as stack:
            if not stack.enter_context(_locked(result.folder)):
                return None
            stack.enter_context(self._leases.hold(result.job_id, result.token, watched=False))
            log.warning("undelivered result found on this machine's disk", job=result.job_id, attempt=result.token)
            return stack.pop_all()

    def _retry(self, adopted: _Adopted) -> bool:
        """Whether the result needs no further attempt. One that fails does not hold up the others."""
        result = adopted.result
        facts = {"job": result.job_id, "attempt": result.token}
        try:
            with suppress(StaleClaim):  # delivery finds out why
                self._store.renew(result.job_id, result.token)
            self._deliver(result)
            log.info("undelivered result delivered", **facts)
        except OVERTAKEN as reason:
            log.info("undelivered result dropped", reason=str(reason), **facts)
        except (StorageUnavailable, StoreUnavailable) as error:
            log.debug("result still undelivered", reason=str(error), **facts)
            return False
        except Exception as error:
            self._failed("spool")
            adopted.errors += 1
            log.warning("result cannot be delivered", errors=adopted.errors, exc_info=error, **facts)
            return adopted.errors >= ATTEMPTS and self._give_up(result)
        return True

    def _give_up(self, result: SpooledResult) -> bool:
        """Have the job run again, with a strike; False while Redis is unavailable."""
        error = JobError(
            "internal_error", "the result could not be stored; the worker's log says why", True, result.token
        )
        try:
            self._store.strike(result.job_id, result.token, error)
        except OVERTAKEN as reason:
            log.info("attempt overtaken", job=result.job_id, attempt=result.token, reason=str(reason))
        except StoreUnavailable:
            return False
        log.error("result given up: the job runs again", job=result.job_id, attempt=result.token)
        _remove(result.folder)
        return True

    def _tidy(self) -> None:
        """Erase incomplete, half-erased and unreadable entries once they are old enough for their writer to be dead."""
        for folder in [*self._folder.glob(".*"), *self._unreadable]:
            with suppress(OSError):  # erased by another worker
                if folder.is_dir() and time.time() - folder.stat().st_mtime > ABANDONED_SECONDS:
                    shutil.rmtree(folder, ignore_errors=True)
                    self._unreadable.discard(folder)


def erase_attempt(storage: Storage, job_id: str, token: int) -> None:
    """Erase what an attempt stored. Files that an unavailable store keeps are erased with the job."""
    try:
        storage.delete_prefix(f"{storage_prefix(job_id)}attempt-{token}/")
    except StorageUnavailable as error:
        log.warning("files of the attempt stay until the job is erased", job=job_id, error=str(error))


def _remove(folder: Path) -> None:
    """Rename first, so a half-deleted entry is never visible."""
    doomed = folder.with_name(f".{folder.name}")
    os.rename(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)  # what stays is erased by `_tidy`


def _read(folder: Path) -> SpooledResult | None:
    """None if it was delivered in the meantime. Raises UnreadableEntry or OSError."""
    try:
        entry = json.loads((folder / _RESULT).read_text(encoding="utf-8"))
        outputs = tuple(_output(**output) for output in entry["outputs"])
        return SpooledResult(folder, entry["job"], entry["token"], outputs, Timings(**entry["timings"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UnreadableEntry(f"{_RESULT}: {error!r}") from error


def _output(scores: Mapping[str, Any] | None = None, **fields: Any) -> Output:
    return Output(**fields, scores=Scores(**scores or {}))  # entries of older versions have none


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Whether the entry is locked for the block."""
    try:
        file = (folder / _RESULT).open("rb")
    except FileNotFoundError:  # delivered in the meantime
        yield False
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        # The previous holder may have delivered and erased it between our open and flock.
        yield (folder / _RESULT).exists()
