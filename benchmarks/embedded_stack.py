"""Runs the embedded stack as a process of its own, for the time of a measurement."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

POLL_SECONDS = 0.1


@contextmanager
def embedded_stack(folder: Path, module: str, *arguments: str, **environment: str) -> Iterator[tuple[str, float]]:
    """Run `python -m module arguments` with its data and log in `folder`. Yields its URL and the seconds until it was
    ready. Raises SystemExit if it exits before."""
    began = time.perf_counter()
    folder.mkdir(exist_ok=True)
    log = folder / "log"
    own = {**os.environ, "DUET_PORT": "0", "DUET_DATA": str(folder / "data"), **environment}
    command = [sys.executable, "-m", module, *arguments]
    with log.open("w") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=own)
    try:
        while not (match := re.search(r"Ready after .*(http://\S+)", log.read_text())):
            if process.poll() is not None:
                raise SystemExit(f"the stack exited before it was ready:\n{log.read_text()}")
            time.sleep(POLL_SECONDS)
        yield match[1], time.perf_counter() - began
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
