"""Readiness of an API process: bounded in time and cached, in threads of its own.

A storage or a Redis that accepts connections and says nothing must not use up the threads of other requests, however
often readiness is asked for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from service.jobs.connection import StoreUnavailable
from service.jobs.store import JobStore
from service.log import log
from service.storage import Storage, StorageUnavailable

PATIENCE_S = 2.0
"""Seconds that a dependency has to respond."""

FRESH_S = 0.25
"""Seconds for which a result is reused."""


class Readiness:
    """Checks Redis, workers and storage."""

    def __init__(self, store: JobStore, storage: Storage) -> None:
        def redis() -> list[str]:
            store.ping()
            return [] if store.workers() else ["worker"]

        def files() -> list[str]:
            storage.check()
            return []

        self._checks = (_Check("redis", redis), _Check("storage", files))

    async def missing(self) -> list[str]:
        """The dependencies that are unavailable: redis, worker, storage. Returns within PATIENCE_S."""
        found = await asyncio.gather(*(check.missing() for check in self._checks))
        return [name for names in found for name in names]

    def close(self) -> None:
        for check in self._checks:
            check.close()


class _Check:
    """One dependency. One thread checks it at a time; all requests meanwhile wait for the same result.

    Only a change of its state is logged: load balancers ask every few seconds.
    """

    def __init__(self, name: str, action: Callable[[], list[str]]) -> None:
        self._name = name
        self._action = action
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=f"ready-{name}")
        self._running: Future[tuple[list[str], str]] | None = None
        self._began = 0.0
        self._available = True

    async def missing(self) -> list[str]:
        now = time.monotonic()
        if self._running is None or (self._running.done() and now - self._began >= FRESH_S):
            self._running, self._began = self._pool.submit(self._check), now
        left = max(0.0, self._began + PATIENCE_S - now)
        try:
            found, error = await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(self._running)), left)
        except TimeoutError:
            found, error = [self._name], f"no response within {PATIENCE_S:g} s"
        self._log_change(error)
        return found

    def _check(self) -> tuple[list[str], str]:
        """What is missing, and why if the dependency itself is."""
        try:
            return self._action(), ""
        except (StoreUnavailable, StorageUnavailable) as error:
            return [self._name], str(error) or repr(error)

    def _log_change(self, error: str) -> None:
        if self._available == (not error):
            return
        self._available = not error
        if error:
            log.warning("not ready", missing=self._name, error=error)
        else:
            log.info("ready again", dependency=self._name)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
