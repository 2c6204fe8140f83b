"""Free space on the worker's disk. A worker without room hands its jobs back and takes no other until there is some."""

from __future__ import annotations

import errno
import shutil
import time
from pathlib import Path

from service.storage import StorageFull

RESERVE = 32 * 2**20
"""Bytes that must be free before a job is claimed."""

PAUSE = 10.0
"""Seconds without new jobs after a write failed although RESERVE bytes are free: that job needs more."""


class DiskSpace:
    """Room for jobs on the disk of `folder`, which need not exist yet."""

    def __init__(self, folder: Path, reserve: int = RESERVE, pause: float = PAUSE) -> None:
        self._folder = folder
        self._reserve = reserve
        self._pause = pause
        self._paused_until = 0.0

    def has_room(self) -> bool:
        """Whether a job may be claimed."""
        return time.monotonic() >= self._paused_until and self._free() >= self._reserve

    def ran_out(self) -> None:
        """A write has failed for lack of space."""
        self._paused_until = time.monotonic() + self._pause

    def _free(self) -> int:
        folder = self._folder
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        return shutil.disk_usage(folder).free


def is_disk_full(error: BaseException | None) -> bool:
    """Whether `error`, or one that caused it, is for lack of space or of quota."""
    while error is not None:
        if isinstance(error, StorageFull):
            return True
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False
