"""A background thread that repeats one action.

Used for leases, deadlines, the spool, the reaper, the presence of workers, the sweeper and the slots of open requests.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from service.log import log

LONGEST_PAUSE = 30.0
"""Seconds between two attempts at most, while the action keeps failing."""


class Periodic:
    """Calls `action` every `interval` seconds in a daemon thread named `name`, from `start()` to `stop()`.

    The thread survives any Exception that the action raises. The first failure in a row is logged, with a traceback
    unless it is one of `expected` (Redis or storage being unavailable); every failure is reported to `failed`. The next
    attempt comes after `retry` seconds (default `interval`), then after twice as long each time, up to `longest`
    (default LONGEST_PAUSE or `interval`, whichever is longer).
    """

    def __init__(
        self,
        name: str,
        action: Callable[[], object],
        interval: float,
        *,
        retry: float | None = None,
        longest: float | None = None,
        at_once: bool = False,
        expected: tuple[type[Exception], ...] = (),
        failed: Callable[[str], None] = lambda name: None,
    ) -> None:
        """`at_once`: make the first call at `start()`, not `interval` seconds later."""
        self.name = name
        self._action = action
        self._interval = interval
        self._retry = interval if retry is None else retry
        self._longest = max(LONGEST_PAUSE, interval) if longest is None else longest
        self._at_once = at_once
        self._expected = expected
        self._failed = failed
        self._stopping = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Make the next call now."""
        self._wake.set()

    def stop(self) -> None:
        """End the thread after the current call. May be called again, and before `start()`."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def __enter__(self) -> Periodic:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _run(self) -> None:
        failures = 0
        pause = 0.0 if self._at_once else self._interval
        while True:
            self._wake.wait(pause)
            self._wake.clear()
            if self._stopping:
                return
            try:
                self._action()
            except Exception as error:
                failures += 1
                self._report(error, failures)
                pause = min(self._retry * 2 ** min(failures - 1, 16), self._longest)
            else:
                if failures:
                    log.info("background task works again", task=self.name, failures=failures)
                failures, pause = 0, self._interval

    def _report(self, error: Exception, failures: int) -> None:
        self._failed(self.name)
        if failures == 1:
            unknown = not isinstance(error, self._expected)
            log.warning("background task failed", task=self.name, error=str(error) or repr(error), exc_info=unknown)
