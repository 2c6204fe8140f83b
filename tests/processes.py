"""Python modules as processes, and processes as /proc describes them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


class ModuleProcess:
    """`python -m …` with a log file for its output."""

    def __init__(self, command: list[str], environment: Mapping[str, str], log: Path) -> None:
        """`command`: the module and its arguments; `environment` is added to this process's own."""
        self.log = log
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={**os.environ, **environment},
            )

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 30) -> int:
        """Send the signal unless it has ended; return its exit status. It is killed after `seconds`."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(seconds)
        finally:
            self.process.kill()


def children(parent: int) -> list[tuple[int, str]]:
    """(process id, command line) of every child of `parent`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (state := status(int(entry.name))) and state[1] == parent:
            try:
                found.append((int(entry.name), (entry / "cmdline").read_text().replace("\0", " ")))
            except OSError:  # it ended meanwhile
                continue
    return found


def status(pid: int) -> tuple[str, int] | None:
    """(state, parent) of a process; None if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[1])
