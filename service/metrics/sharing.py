"""Shares metrics between several API processes on one socket: each of them reports for all.

prometheus-client keeps the counts of each process in memory-mapped files and adds them up for each scrape. The files
are named for the number of a process, not for its pid: a restarted process continues where the previous one stopped, so
sums never fall and no file of a dead process remains.

A write to a page of a mapped file that has no space on its disk kills the process (SIGBUS). So the files are allocated
in full when they are opened; if the disk is full by then, the process counts in memory.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict

from service.log import log

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus-client's own name for the folder."""

FILE_BYTES = 2 * 2**20
"""Size of a file, enough for some 10,000 time series. prometheus-client would start smaller and grow without space
being allocated."""


class AllocatedDict(MmapedDict):
    """A memory-mapped file whose space is allocated."""

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        super().__init__(filename if read_mode or _allocated(filename) else _in_memory(filename), read_mode)


def share(folder: Path, number: int) -> None:
    """Make this process number `number` of those that count in `folder`. Call before the first metric is created."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[FOLDER] = str(folder)
    setattr(values, "MmapedDict", AllocatedDict)  # noqa: B010 - mypy forbids the assignment
    values.ValueClass = values.MultiProcessValue(lambda: number)


def shared_folder() -> str | None:
    """The folder in which this process counts with others; None if it counts alone."""
    return os.environ.get(FOLDER)


def _allocated(filename: str) -> bool:
    """Create or extend the file with its space allocated. False if the disk is full."""
    handle = os.open(filename, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        os.posix_fallocate(handle, 0, max(FILE_BYTES, os.fstat(handle).st_size))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        os.unlink(filename)
        return False
    finally:
        os.close(handle)
    return True


def _in_memory(filename: str) -> str:
    """Path of a file in memory in place of `filename`. Lasts as long as the process."""
    log.warning("no space for a metrics file: this process counts in memory", file=filename)
    handle = os.memfd_create(Path(filename).name)
    os.truncate(handle, FILE_BYTES)
    return f"/proc/self/fd/{handle}"
