"""Results on their way out. What was made once is not made again because storage or Redis is away.

A finished result is first moved to a folder of its own below the spool, on this machine's disk, and handed from the
process to that place in the record. From there it is uploaded and committed: at once by whoever made it or, where that
fails or the worker dies meanwhile, again and again by the thread of whichever worker on this machine gets to it. An
entry is a folder `{job}-{attempt}` with the files and `result.json`; it appears by a rename, whole or not at all, and
whoever works on it holds a lock on its `result.json`, which ends with the process.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from service.jobs.record import SPOOL, IllegalTransition, Job, Output, StaleClaim, Timings, storage_prefix
from service.jobs.store import JobStore, StoreUnavailable, UnknownJob
from service.log import log
from service.storage import Storage, StorageUnavailable
from workers.leases import Leases

INTERVAL = 1.0
"""Seconds between two attempts to deliver what waits."""

CONTENT_TYPES = {
    ".mp4": "video/mp4",
    ".wav": "audio/wav",
    ".webp": "image/webp",
    ".png": "image/png",
    ".json": "application/json",
}

OVERTAKEN = (StaleClaim, IllegalTransition, UnknownJob)
"""The job is not ours any more: taken by the reaper, ended, or erased."""

_RESULT = "result.json"

Files = dict[str, Path]
"""The files of one output by name."""


@dataclass(frozen=True)
class Result:
    """What an attempt made: outputs, whose keys in storage are also paths below `folder`."""

    folder: Path
    job_id: str
    token: int
    outputs: tuple[Output, ...]
    timings: Timings

    def path(self, key: str) -> Path:
        return self.folder / Path(key).relative_to(f"{storage_prefix(self.job_id)}attempt-{self.token}")


class Spool:
    """The results below `folder` that are not delivered yet; a thread works on them from `start()` to `stop()`."""

    def __init__(self, folder: Path, store: JobStore, storage: Storage, leases: Leases) -> None:
        self.holder = socket.gethostname() + SPOOL
        self._folder = folder
        self._store = store
        self._storage = storage
        self._leases = leases
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after what it is doing. May be called again, and before `start()`."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def add(self, job: Job, made: list[Files], timings: Timings) -> Result:
        """Take over the files of every output, which lie on the same disk. Raises OSError."""
        partial = self._folder / f".{job.id}-{job.attempt}"
        shutil.rmtree(partial, ignore_errors=True)
        for index, files in enumerate(made):
            (partial / str(index)).mkdir(parents=True)
            for name, path in files.items():
                os.replace(path, partial / str(index) / name)
                _flush(partial / str(index) / name)
        keys = [{name: job.attempt_key(f"{index}/{name}") for name in files} for index, files in enumerate(made)]
        outputs = tuple(Output(index, job.params.seed, files) for index, files in enumerate(keys))
        entry = {"job": job.id, "token": job.attempt, "timings": asdict(timings)}
        entry["outputs"] = [asdict(output) for output in outputs]
        (partial / _RESULT).write_text(json.dumps(entry), encoding="utf-8")
        _flush(partial / _RESULT)
        final = self._folder / f"{job.id}-{job.attempt}"
        os.rename(partial, final)
        _flush(self._folder)
        return Result(final, job.id, job.attempt, outputs, timings)

    def deliver(self, result: Result) -> bool:
        """Upload and commit; the entry is gone afterwards. False if somebody else does so just now.

        Raises StorageUnavailable or StoreUnavailable: the entry stays, and the thread goes on with it. Raises one of
        OVERTAKEN if the job is not ours any more: the entry and what was uploaded are gone then.
        """
        with _locked(result.folder) as ours:
            if ours:
                self._deliver(result)
        return ours

    def waiting(self) -> list[Result]:
        """What is not delivered yet."""
        folders = sorted(self._folder.glob("[!.]*")) if self._folder.is_dir() else []
        return [result for folder in folders if (result := _read(folder))]

    def _deliver(self, result: Result) -> None:
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

    def _committed(self, result: Result) -> bool:
        """Whether an earlier delivery got to its end, only that we never heard of it."""
        try:
            return self._store.get(result.job_id).outputs == result.outputs
        except UnknownJob:
            return False

    def _run(self) -> None:
        """Take over what nobody works on: hold its lock and its lease, and try to deliver it until that is done."""
        _tidy(self._folder)
        ours: dict[Path, tuple[Result, ExitStack]] = {}
        while not self._stopped.wait(INTERVAL):
            for result in self.waiting():
                if result.folder not in ours and (stack := self._adopt(result)):
                    ours[result.folder] = result, stack
            for folder, (result, stack) in list(ours.items()):
                try:
                    self._store.renew(result.job_id, result.token)
                except StaleClaim:
                    pass  # the delivery finds out more
                except StoreUnavailable:
                    break
                if not self._retry(result):
                    break
                stack.close()
                del ours[folder]
        for _, stack in ours.values():
            stack.close()

    def _adopt(self, result: Result) -> ExitStack | None:
        with ExitStack() as stack:
            if not stack.enter_context(_locked(result.folder)):
                return None
            stack.enter_context(self._leases.hold(result.job_id, result.token, watched=False))
            log.warning("a result waits on this machine's disk", job=result.job_id, attempt=result.token)
            return stack.pop_all()

    def _retry(self, result: Result) -> bool:
        """Whether it is done with, one way or the other; False where storage or Redis is away."""
        try:
            self._deliver(result)
            log.info("the result that waited is delivered", job=result.job_id, attempt=result.token)
        except OVERTAKEN as reason:
            log.info("the result that waited is dropped", job=result.job_id, attempt=result.token, reason=str(reason))
        except (StorageUnavailable, StoreUnavailable) as error:
            log.debug("the result still waits", job=result.job_id, attempt=result.token, reason=str(error))
            return False
        return True


def erase_attempt(storage: Storage, job_id: str, token: int) -> None:
    """Erase what an attempt stored. What a store that is away keeps goes when the job is erased."""
    try:
        storage.delete_prefix(f"{storage_prefix(job_id)}attempt-{token}/")
    except StorageUnavailable as error:
        log.warning("files of the attempt stay until the job is erased", job=job_id, error=str(error))


def _remove(folder: Path) -> None:
    """At once to the eye: what is half erased is no entry."""
    doomed = folder.with_name(f".{folder.name}")
    os.rename(folder, doomed)
    shutil.rmtree(doomed)


def _tidy(spool: Path) -> None:
    """Erase what workers left half written or half erased when they died, long enough ago to be sure of that."""
    for folder in spool.glob(".*"):
        if time.time() - folder.stat().st_mtime > 3600:
            shutil.rmtree(folder, ignore_errors=True)


def _read(folder: Path) -> Result | None:
    try:
        entry = json.loads((folder / _RESULT).read_text(encoding="utf-8"))
    except FileNotFoundError:  # delivered meanwhile
        return None
    outputs = tuple(Output(**output) for output in entry["outputs"])
    return Result(folder, entry["job"], entry["token"], outputs, Timings(**entry["timings"]))


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Whether the entry is ours for the block."""
    try:
        file = (folder / _RESULT).open("rb")
    except FileNotFoundError:  # delivered meanwhile
        yield False
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        # The one before may have delivered and erased it between our opening and locking.
        yield (folder / _RESULT).exists()


def _flush(path: Path) -> None:
    """To the disk: a result that is there after a crash is there with its contents."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
