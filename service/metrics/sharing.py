"""Several API processes on one socket count together: whichever of them is asked answers for all.

prometheus-client keeps what each process counts in files, and adds them up when it is asked. The files are named for
the number of a process, not for its pid: one that is started again goes on counting where the one before it stopped, so
that sums never fall and no file of a dead process is left.
"""

from __future__ import annotations

import os
from pathlib import Path

from prometheus_client import values

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus-client's own name for the folder."""


def share(folder: Path, number: int) -> None:
    """This process is `number` of those that count in `folder`. Before the first metric is made."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[FOLDER] = str(folder)
    values.ValueClass = values.MultiProcessValue(lambda: number)


def shared_folder() -> str | None:
    """Where this process counts with others; None where it counts for itself."""
    return os.environ.get(FOLDER)
