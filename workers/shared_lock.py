"""A readers-writer lock: most jobs run side by side, a suspect one runs alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class SharedLock:
    """Held by many at once or by one exclusively. An exclusive request goes before later shared ones."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holders = 0
        self._exclusive = False
        self._waiting_exclusive = 0

    @contextmanager
    def hold(self, *, exclusive: bool) -> Iterator[None]:
        """Acquire the lock, and hold it for the block."""
        with self._changed:
            if exclusive:
                self._waiting_exclusive += 1
                self._changed.wait_for(lambda: not self._holders)
                self._waiting_exclusive -= 1
                self._exclusive = True
            else:
                self._changed.wait_for(lambda: not self._exclusive and not self._waiting_exclusive)
            self._holders += 1
        try:
            yield
        finally:
            with self._changed:
                self._holders -= 1
                self._exclusive = False
                self._changed.notify_all()
