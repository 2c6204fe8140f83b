"""Rate limiting by a minimum interval."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Throttle:
    """True at most once per `seconds`, if the `shared` parent also allows it. The first time is after `seconds`."""

    def __init__(
        self, seconds: float, shared: Throttle | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._shared = shared
        self._clock = clock
        self._next = clock() + seconds
        self._lock = threading.Lock()

    def allow(self) -> bool:
        """Whether the interval is over; if so, the next one begins."""
        with self._lock:
            now = self._clock()
            if now < self._next or (self._shared is not None and not self._shared.allow()):
                return False
            self._next = now + self._seconds
            return True
