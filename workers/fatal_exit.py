"""Exit statuses of a worker that cannot go on, and the exit of one whose device has failed.

The jobs of such a worker keep their leases, which expire; another worker retries them.
"""

from __future__ import annotations

import os

from service.log import log
from workers.leases import Lease

DEVICE_FAILED = 70
"""Exit status after a device failure (EX_SOFTWARE of sysexits.h). The supervisor starts another worker."""

CONSUMER_FAILED = 75
"""Exit status after the consumer has failed (EX_TEMPFAIL). The supervisor starts another worker."""


def exit_hung(lease: Lease) -> None:
    """For a job that makes no progress: a thread stuck in the driver cannot be stopped any other way."""
    log.error("job hangs: exiting", job=lease.job_id, attempt=lease.token)
    os._exit(DEVICE_FAILED)


def exit_device_lost(error: BaseException) -> None:
    """For a failure of the driver or the engine: no later job in this process could succeed."""
    log.error("device lost: exiting", exc_info=error)
    os._exit(DEVICE_FAILED)
