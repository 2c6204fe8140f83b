"""A circuit breaker around a store (Nygard, "Release It!"): while the store hangs or fails, calls fail at once.

    closed ──FAILURES failed calls in a row──▶ open
      ▲                                         │
      └──a probe gets an answer, one per PAUSE_S─┘

Without it each call to a store that accepts connections and never answers holds a thread until its timeout. The probe
is `check()`, made by the next caller. After it the breaker is on trial: one failed call opens it again.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from service.log import log
from service.storage.protocol import ObjectInfo, ObjectNotFound, Storage, StorageRefused, StorageUnavailable

FAILURES = 3
PAUSE_S = 2.0

_T = TypeVar("_T")


class Breaker:
    """The states. Thread-safe."""

    def __init__(
        self,
        failures: int = FAILURES,
        pause: float = PAUSE_S,
        clock: Callable[[], float] = time.monotonic,
        changed: Callable[[bool], None] = lambda is_open: None,
    ) -> None:
        """`pause` in seconds of `clock`; `changed` is called with whether the breaker is open."""
        self._failures = failures
        self._pause = pause
        self._clock = clock
        self._changed = changed
        self._lock = threading.Lock()
        self._open = False
        self._failed = 0
        self._probing = False
        self._retry_at = 0.0
        self._period = 0
        """Number of times that it has closed. A call that began in an earlier period says nothing about this one."""

    @property
    def open(self) -> bool:
        return self._open

    def admit(self, probe: Callable[[], None]) -> int:
        """Return the period of a call that may be made. If a probe is due, makes it first.

        A probe that finds the store full or is refused has got an answer: the breaker closes, and the call may free
        space. Raises StorageUnavailable while open, and what `probe` raises otherwise.
        """
        with self._lock:
            if not self._open:
                return self._period
            if self._probing or self._clock() < self._retry_at:
                raise StorageUnavailable("the store has failed repeatedly, and is tried again in a moment")
            self._probing = True
        works = False
        try:
            with contextlib.suppress(StorageRefused):
                probe()
            works = True
        finally:
            with self._lock:
                self._probing = False
                self._retry_at = self._clock() + self._pause
                if works:
                    self._period += 1
                    self._failed = self._failures - 1
                    self._set_open(False)
        return self._period

    def succeeded(self, period: int) -> None:
        """A call that was admitted in `period` has got an answer."""
        with self._lock:
            if period == self._period and not self._open:
                self._failed = 0

    def failed(self, period: int) -> None:
        """A call that was admitted in `period` has got none."""
        with self._lock:
            if period != self._period or self._open:
                return
            self._failed += 1
            if self._failed >= self._failures:
                self._retry_at = self._clock() + self._pause
                self._set_open(True)

    def _set_open(self, is_open: bool) -> None:
        self._open = is_open
        self._changed(is_open)
        if is_open:
            log.error("storage fails: calls are refused until it answers again")
        else:
            log.info("storage answers again")


class GuardedStorage:
    """`storage` behind a breaker. An object that is not found, a full store and a refused call are answers."""

    def __init__(self, storage: Storage, breaker: Breaker | None = None) -> None:
        self._storage = storage
        self.breaker = breaker or Breaker()

    def check(self) -> None:
        self._call(self._storage.check)

    def put_file(self, key: str, path: Path, content_type: str) -> None:
        self._call(lambda: self._storage.put_file(key, path, content_type))

    def put_bytes(self, key: str, data: bytes, content_type: str) -> None:
        self._call(lambda: self._storage.put_bytes(key, data, content_type))

    def info(self, key: str) -> ObjectInfo:
        return self._call(lambda: self._storage.info(key))

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        period = self.breaker.admit(self._storage.check)
        return self._pieces(period, self._counted(period, lambda: self._storage.read(key, start, stop), done=False))

    def download(self, key: str, path: Path) -> None:
        self._call(lambda: self._storage.download(key, path))

    def list(self, prefix: str) -> list[str]:
        return self._call(lambda: self._storage.list(prefix))

    def delete_prefix(self, prefix: str) -> None:
        self._call(lambda: self._storage.delete_prefix(prefix))

    def _call(self, call: Callable[[], _T]) -> _T:
        return self._counted(self.breaker.admit(self._storage.check), call)

    def _counted(self, period: int, call: Callable[[], _T], done: bool = True) -> _T:
        """`done`: whether the return of `call` proves that the store works."""
        try:
            result = call()
        except (ObjectNotFound, StorageRefused):
            self.breaker.succeeded(period)
            raise
        except StorageUnavailable:
            self.breaker.failed(period)
            raise
        if done:
            self.breaker.succeeded(period)
        return result

    def _pieces(self, period: int, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """The store may also stop answering in the middle of an object, so only its end is a success."""
        while (piece := self._counted(period, lambda: next(pieces, None), done=False)) is not None:
            yield piece
        self.breaker.succeeded(period)
