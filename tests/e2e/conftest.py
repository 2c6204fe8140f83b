"""`duet serve`, started as a user would start it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from tests.processes import children, status
from tests.waiting import until

START_SECONDS = 60
"""Limit for a start on a busy machine."""


class Serve:
    """A running `duet serve`; `lines` is its output."""

    def __init__(
        self,
        data: Path,
        *arguments: str,
        program: Sequence[str] = (sys.executable, "-m", "duet"),
        folder: Path | None = None,
        **settings: str,
    ) -> None:
        """`program`: the command `duet`; `folder`: its working directory; `settings`: variables of the environment,
        such as DUET_MODELS."""
        self.data = data
        self.lines: list[str] = []
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DUET_")}
        environment |= settings
        environment["OMP_WAIT_POLICY"] = "PASSIVE"  # threads that spin get nowhere on a machine that is busy
        self.process = subprocess.Popen(
            [*program, "serve", "--data", str(data), *(arguments or ("--port", "0"))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env=environment,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def ready(self, seconds: float = START_SECONDS) -> httpx.Client:
        """Wait until it says that it is ready; return a client of its API."""

        def address() -> str | None:
            assert self.process.poll() is None, f"duet serve ended:\n{self.output}"
            match = re.search(r"Ready after .*(http://\S+)", self.output)
            return match[1] if match else None

        return httpx.Client(base_url=until(address, "duet serve is ready", seconds), timeout=30, trust_env=False)

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def processes(self) -> dict[str, int]:
        """Process ids of the parts, by name."""
        found = {}
        for pid, command in children(self.process.pid):
            found[next(name for name in ("redis", "api", "worker", "webhooks") if name in command)] = pid
        return found

    def family(self) -> list[int]:
        """Every process that belongs to this stack, the first one too."""
        members = [self.process.pid]
        for pid in members:
            members += [child for child, _ in children(pid)]
        return members

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Stop it as Ctrl-C does; return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end; return its exit status."""
        try:
            status = self.process.wait(40)
        finally:
            self.process.kill()
        self._reader.join(5)
        return status

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())


def alive(pids: list[int]) -> list[int]:
    """The processes that still run."""
    return [pid for pid in pids if (state := status(pid)) and state[0] != "Z"]


def finished(client: httpx.Client, job: str, seconds: float = 120) -> dict:
    """Follow a job to its end; return it as the API shows it."""

    def ended() -> dict | None:
        answer = client.get(job).raise_for_status().json()
        return answer if answer["status"] in ("completed", "failed") else None

    return until(ended, f"{job} has ended", seconds)


@pytest.fixture
def start_serve() -> Iterator[Callable[..., Serve]]:
    """Starts stacks, and stops them after the test."""
    started: list[Serve] = []

    def start(data: Path, *arguments: str) -> Serve:
        started.append(Serve(data, *arguments))
        return started[-1]

    yield start
    for serve in started:
        serve.stop()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a stack that is shared by the tests of a module."""
    serve = Serve(tmp_path_factory.mktemp("served") / "data")
    try:
        with serve.ready() as client:
            yield client
    finally:
        serve.stop()
