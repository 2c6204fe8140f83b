"""A real worker whose loads or jobs wait while a file exists, and whose models all take one byte. For tests."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from model.checkpoint.model_folders import Version
from service.jobs.record import Progress
from service.settings import load_settings
from workers import model_maker
from workers.app import run
from workers.runner import Attempt

HOLD = "DUET_TEST_HOLD"
"""Variable of the environment that names the file."""

HOLD_JOBS = "DUET_TEST_HOLD_JOBS"
"""Variable that names a folder: a job waits after its first step while its id is a file there."""

_load, _report = model_maker._load, Attempt.report


def held_load(version: Version, *arguments: Any) -> tuple[Any, int]:
    _wait(HOLD)
    return _load(version, *arguments)[0], 1


def held_report(attempt: Attempt, step: Progress) -> None:
    _report(attempt, step)
    _wait(HOLD_JOBS, attempt.job.id)


def _wait(variable: str, *name: str) -> None:
    while variable in os.environ and Path(os.environ[variable], *name).exists():
        time.sleep(0.02)


if __name__ == "__main__":
    model_maker._load = held_load
    Attempt.report = held_report  # type: ignore[method-assign]
    raise SystemExit(run(load_settings()))
