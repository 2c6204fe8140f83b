"""API, worker and sender of webhooks as processes of their own, each with its log; the worker's models take no time."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from service.settings import Settings
from tests.chaos.worker import LEDGER
from tests.waiting import until

COMMANDS = {
    "api": ("duet", "api"),
    "worker": ("tests.chaos.worker",),
    "webhooks": ("duet", "webhooks"),
}


@dataclass(frozen=True)
class Running:
    """`url` of the API; `logs` by process."""

    url: str
    logs: dict[str, Path]

    def lines(self, process: str) -> Iterator[dict[str, Any]]:
        """What the process has logged, which has to be one JSON object a line."""
        for line in self.logs[process].read_text().splitlines():
            entry: dict[str, Any] = json.loads(line)
            yield entry

    def ended(self, url: str) -> dict[str, Any]:
        """Wait until the job at `url` has ended; return it."""

        def job() -> dict[str, Any] | None:
            answer: dict[str, Any] = httpx.get(f"{self.url}{url}", trust_env=False).raise_for_status().json()
            return answer if answer["completed_at"] else None

        return until(job, f"{url} has ended", 60)


@contextmanager
def running(settings: Settings, folder: Path) -> Iterator[Running]:
    """All three with these settings, logs in `folder`; stopped at the end."""
    values = settings.model_copy(update={"log_format": "json"}).model_dump(mode="json", exclude_unset=True)
    environment = {f"DUET_{name.upper()}": str(value) for name, value in values.items()}
    environment |= {LEDGER: str(folder / "ledger"), "DUET_CHAOS_STEP": "0.05"}
    logs = {name: folder / f"{name}.log" for name in COMMANDS}
    with ExitStack() as stack, socket.create_server(("127.0.0.1", 0)) as listener:
        for name, (module, *arguments) in COMMANDS.items():
            if name == "api":
                arguments += ["--descriptor", str(listener.fileno())]
            file = stack.enter_context(logs[name].open("wb"))
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={**os.environ, **environment},
                pass_fds=(listener.fileno(),),
            )
            stack.callback(process.wait, 30)
            stack.callback(process.terminate)
        found = Running(f"http://127.0.0.1:{listener.getsockname()[1]}", logs)
        # The socket listens before the API does: the first answer takes as long as its start.
        until(lambda: httpx.get(f"{found.url}/readyz", timeout=60, trust_env=False).is_success, "it is ready", 60)
        yield found
