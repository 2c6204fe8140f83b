"""Reloads the worker's models after a reload by the API or a signal."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict

from model.checkpoint.model_folders import BrokenModel
from service.jobs.connection import StoreUnavailable
from service.jobs.model_generation import ModelGeneration
from service.log import log
from service.periodic import Periodic
from workers.runner import Maker

INTERVAL = 1.0
"""Seconds between two checks for a reload."""

REFUSED_RETRY = 10.0
"""Seconds until folders that were refused are read again: files may still be on their way to this machine."""


class ModelFollower:
    """Follows the reloads of the API, from `start()` to `stop()`.

    `reloaded` is called with whether the folders were taken, `failed` with the name of a thread whose action raised.
    """

    def __init__(
        self,
        generation: ModelGeneration,
        maker: Maker,
        reloaded: Callable[[bool], None] = lambda taken: None,
        failed: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._generation = generation
        self._maker = maker
        self._reloaded = reloaded
        self._taken: int | None = None
        self._refused_at = float("-inf")
        self._refusal = ""
        self._asked = False
        self._lock = threading.Lock()
        self._thread = Periodic(
            "models", self._round, INTERVAL, retry=INTERVAL, at_once=True, expected=(StoreUnavailable,), failed=failed
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """May be called again, and before `start()`."""
        self._thread.stop()

    def reload(self) -> None:
        """Read the folders again soon, whatever the API says. Returns at once."""
        self._asked = True
        self._thread.wake()

    def look(self) -> None:
        """Read the folders if there was a reload since they were read last; do nothing while Redis is unavailable."""
        try:
            self._look()
        except StoreUnavailable:
            return

    def _round(self) -> None:
        self._look()
        self._maker.preload()

    def _look(self) -> None:
        number = self._generation.current()
        with self._lock:
            asked = self._asked
            if asked:
                self._asked, self._taken, self._refused_at, self._refusal = False, None, float("-inf"), ""
            if number == self._taken or time.monotonic() < self._refused_at + REFUSED_RETRY:
                return
            try:
                changes = self._maker.reload()
            except Exception as error:
                self._refused_at = time.monotonic()
                self._reloaded(False)
                self._log_refusal(error)
                return
            self._taken, self._refused_at, self._refusal = number, float("-inf"), ""
            self._reloaded(True)
            if changes:
                log.info("models reloaded", **asdict(changes))
            elif asked:
                log.info("models reloaded: nothing has changed")

    def _log_refusal(self, error: Exception) -> None:
        """Log the reason, once as long as it stays the same."""
        known, self._refusal = self._refusal, repr(error)
        if self._refusal == known:
            return
        folder, reason = (error.folder, error.reason) if isinstance(error, BrokenModel) else (None, str(error))
        log.error(
            "models not reloaded: this worker keeps those that it has",
            folder=folder,
            reason=reason,
            exc_info=not isinstance(error, BrokenModel),
        )
