"""Another client, in a process and with an address of its own: `python -m tests.hostile.bystander URL`.

Alternates between `GET /healthz` on a new connection and a small `POST /generate` on a connection that it keeps, until
its standard input ends. Prints for each request a
line with the monotonic time at which it began and the seconds that it took.
"""

from __future__ import annotations

import select
import subprocess
import sys
import threading
import time
from types import TracebackType

import httpx

from tests.hostile.wire import BYSTANDER

PAUSE = 0.02
LOST = 60.0
"""Seconds that a request counts that got no answer, or another one than 2xx."""


class Bystander:
    """Runs this file as long as the context is open."""

    def __init__(self, url: str) -> None:
        self._taken: list[tuple[float, float]] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Bystander:
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._reader.join()

    def since(self, began: float) -> list[float]:
        """Seconds of each request that ended after this monotonic time."""
        return [seconds for start, seconds in self._taken if start + seconds > began]

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            began, seconds = line.split()
            self._taken.append((float(began), float(seconds)))


def main(url: str) -> None:
    with _client(url, httpx.Limits(max_keepalive_connections=0)) as fresh, _client(url, httpx.Limits()) as kept:
        while not select.select([sys.stdin], [], [], PAUSE)[0]:
            for ask in (lambda: fresh.get("/healthz"), lambda: kept.post("/generate", json={"seed": 1})):
                began = time.monotonic()
                try:
                    seconds = time.monotonic() - began if ask().is_success else LOST
                except httpx.HTTPError:
                    seconds = LOST
                print(began, seconds, flush=True)


def _client(url: str, limits: httpx.Limits) -> httpx.Client:
    transport = httpx.HTTPTransport(local_address=BYSTANDER, limits=limits)
    return httpx.Client(base_url=url, transport=transport, timeout=30, trust_env=False)


if __name__ == "__main__":
    main(sys.argv[1])
