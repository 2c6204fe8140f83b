"""Latency and throughput of the API without a worker. Prints JSON.

    python -m benchmarks.api [--seconds 10] [--processes 2]

Redis flushes every write to disk, as in `duet serve`. The API processes share one socket; this process is the client,
over plain sockets.

- `GET /jobs/{id}`: responses per second over 16 connections in a closed loop. They are opened one after the other,
  because one process may accept all of 16 simultaneous connections.
- `POST /generate`: 100 requests per second at fixed times; latency counts from the due time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import redis
import uvloop

from benchmarks.report import at_least, at_most, show, surroundings
from tests.conftest import RedisServer

CONNECTIONS = 16
ARRIVAL = 0.1
"""Seconds between the openings of two connections."""

RATE = 100
"""Requests per second."""

JOB = b"{}"


class Connection:
    """Minimal HTTP/1.1 client with one persistent connection."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Connection:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Send a request; return status and body of the response."""
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        self._writer.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        lengths = [line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        length = int(lengths[0].partition(b":")[2])
        return int(answer.split(b" ", 2)[1]), await self._reader.readexactly(length)


async def measure(port: int, seconds: float) -> dict[str, Any]:
    """Measure reads and writes."""
    async with Connection(port) as connection:
        for _ in range(20):
            _, body = await connection.ask("POST", "/generate", JOB)
        job = json.loads(body)["id"]
    reads = await _reads(port, job, seconds)
    writes = sorted(await _writes(port, seconds))
    percentiles = statistics.quantiles(writes, n=100, method="inclusive")
    return {
        "get_per_s": at_least(1500, reads / seconds, 1),
        "post_p99_ms": at_most(30, 1000 * percentiles[98], 1),
        "post_p50_ms": round(1000 * percentiles[49], 2),
        "post_requests": len(writes),
    }


async def _reads(port: int, job: str, seconds: float) -> int:
    """Responses within `seconds`, counted once all connections are open."""
    begins = time.perf_counter() + (CONNECTIONS + 1) * ARRIVAL
    ends = begins + seconds

    async def read_in_a_loop(number: int) -> int:
        answered = 0
        await asyncio.sleep(number * ARRIVAL)
        async with Connection(port) as connection:
            while (now := time.perf_counter()) < ends:
                status, _ = await connection.ask("GET", f"/jobs/{job}")
                assert status == 200, status
                answered += now >= begins
        return answered

    return sum(await asyncio.gather(*map(read_in_a_loop, range(CONNECTIONS))))


async def _writes(port: int, seconds: float) -> list[float]:
    began = time.perf_counter() + 0.1

    async def write_on_schedule(number: int) -> list[float]:
        took = []
        async with Connection(port) as connection:
            for request in range(number, int(RATE * seconds), CONNECTIONS):
                due = began + request / RATE
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                status, body = await connection.ask("POST", "/generate", JOB)
                assert status == 202, body
                took.append(time.perf_counter() - due)
        return took

    return [value for took in await asyncio.gather(*map(write_on_schedule, range(CONNECTIONS))) for value in took]


@contextmanager
def _serving(folder: Path, processes: int) -> Iterator[int]:
    """Run Redis and the API; yields the port."""
    with ExitStack() as stack:
        server = RedisServer(folder)
        server.start()
        stack.callback(server.stop)
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=512))
        own = {"DUET_REDIS_URL": server.url, "DUET_DATA": str(folder / "data"), "DUET_MAX_QUEUED": "1000000"}
        command = [sys.executable, "-m", "duet", "api", "--descriptor", str(listener.fileno())]
        log = stack.enter_context((folder / "log").open("w"))
        for _ in range(processes):
            process = subprocess.Popen(
                command,
                env={**os.environ, **own},
                pass_fds=[listener.fileno()],
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
            stack.callback(process.wait, 20)
            stack.callback(process.terminate)
        port: int = listener.getsockname()[1]
        asyncio.run(_wait_until_ready(port, server.url, processes))
        yield port


async def _wait_until_ready(port: int, url: str, processes: int) -> None:
    """Wait until all processes are connected to Redis: each has one subscriber there."""
    async with Connection(port) as connection:
        await connection.ask("GET", "/healthz")
    with redis.Redis.from_url(url) as client:
        while len(client.client_list(_type="pubsub")) < processes:
            await asyncio.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="length of each measurement (default 10)")
    parser.add_argument("--processes", type=int, default=2, help="API processes (default 2, as in `duet serve`)")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="duet-benchmark-") as folder,
        _serving(Path(folder), arguments.processes) as port,
    ):
        figures = uvloop.run(measure(port, arguments.seconds))
    show({**surroundings(), "processes": arguments.processes, "figures": figures})


if __name__ == "__main__":
    main()
