"""`duet serve` with workers whose model is a fake: `python -m tests.chaos.stack`; all settings from the environment."""

from __future__ import annotations

from duet.standalone.stack import serve
from service.settings import load_settings

if __name__ == "__main__":
    serve(load_settings(), worker=("-m", "tests.chaos.worker"))
