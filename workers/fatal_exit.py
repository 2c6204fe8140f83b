"""How a worker ends before its time. Its jobs keep their leases, which run out, and are tried elsewhere."""

from __future__ import annotations

import os

from service.log import log
from workers.leases import Held

HUNG = 70
"""Exit status of a worker whose device is of no more use: whoever runs workers starts another."""


def end_hung(held: Held) -> None:
    """A device that hangs lets no thread go."""
    log.error("a job hangs: this worker ends", job=held.job_id, attempt=held.token)
    os._exit(HUNG)


def end_lost(error: BaseException) -> None:
    """The device's driver or the engine failed: nothing that follows in this process could succeed."""
    log.error("the device is lost: this worker ends", exc_info=error)
    os._exit(HUNG)
