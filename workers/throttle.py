"""Not more often than every so many seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Pace:
    """Says when something is due that may happen every `seconds`, and within that only when it is due for `whole` too,
    which several share. The first time is after `seconds`."""

    def __init__(self, seconds: float, whole: Pace | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._whole = whole
        self._clock = clock
        self._next = clock() + seconds
        self._lock = threading.Lock()

    def due(self) -> bool:
        """Whether it is; if so, the next time is `seconds` away."""
        with self._lock:
            now = self._clock()
            if now < self._next or (self._whole is not None and not self._whole.due()):
                return False
            self._next = now + self._seconds
            return True
