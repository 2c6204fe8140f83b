"""A real worker whose loads wait while a file exists, and whose models all take one byte. For tests."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from model.checkpoint.model_folders import Version
from service.settings import load_settings
from workers import model_maker
from workers.app import run

HOLD = "DUET_TEST_HOLD"
"""Variable of the environment that names the file."""

_load = model_maker._load


def held_load(version: Version, *arguments: Any) -> tuple[Any, int]:
    while Path(os.environ[HOLD]).exists():
        time.sleep(0.02)
    return _load(version, *arguments)[0], 1


if __name__ == "__main__":
    model_maker._load = held_load
    raise SystemExit(run(load_settings()))
