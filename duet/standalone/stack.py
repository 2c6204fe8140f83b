"""The embedded stack: Redis, API, workers and webhook sender from one command, with all state in one folder."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

from duet.standalone.resources import CannotServe, DataLock, check_metrics_ports, listen, redis_program
from duet.standalone.supervisor import Program, Supervised
from service.hangup import Terminal
from service.log import configure_logging
from service.settings import Settings
from service.temporary_folder import NotOurs, empty

if TYPE_CHECKING:
    from service.jobs.reaper import Reaper

LONGEST_SOCKET_PATH = 100
"""Bytes. A Unix socket address holds 108 on Linux and 104 on macOS, including the final zero."""

REDIS_LOG = "redis.log"
"""In Redis' folder, because its lines at every start would hide those of the stack."""

SPINS = "20000"
"""Iterations for which a waiting OpenMP thread of the worker spins before it sleeps (GOMP_SPINCOUNT). GNU's default is
15 times as many and assumes idle cores: if other programs use them too, spinning threads slow down the thread they wait
for, and a job took ten times as long. This value costs little on an idle machine, and at most half the speed on a busy
one."""

RECOVERY_TIMEOUT = 10.0
"""Seconds to wait for a restarting Redis before interrupted jobs are left until their leases expire."""

READY_TIMEOUT = 15.0
"""Seconds after which the webhook sender and further API processes start, even if the stack is not ready."""

WORKER = ("-m", "duet", "worker")
"""Arguments of Python for a worker process."""

STDOUT = 1

_T = TypeVar("_T")

_COLOURS = {"duet": 36, "api": 32, "worker": 35, "redis": 33, "webhooks": 34}


def serve(settings: Settings, worker: Sequence[str] = WORKER) -> None:
    """Run the stack until SIGINT or SIGTERM, or until its terminal goes away. A second signal kills the processes that
    have not ended yet. Any other SIGHUP makes the API and the workers read the folders of models again.

    `settings.redis_url` is ignored, because the stack has its own Redis. `worker` may be another program that calls
    `workers.app.run`. Raises CannotServe if the address or the folder is not available, or if other machines could
    reach an API without keys.
    """
    try:
        settings.check_published()
    except ValueError as error:
        raise CannotServe(str(error)) from error
    check_metrics_ports(settings)
    configure_logging(settings)
    data = settings.data.absolute()
    with listen(settings.host, settings.port) as listener, DataLock(data) as lock:
        try:
            empty(settings)
        except NotOurs as error:
            raise CannotServe(str(error)) from error
        except OSError as error:
            raise CannotServe(f"The folder {settings.temporary} cannot be emptied: {error.strerror}.") from error
        asyncio.run(_Stack(settings, data, listener, lock.descriptor, worker).run())


def _report(name: str, line: str) -> None:
    label = f"{name:<8} |"
    colour = _COLOURS[name.partition("-")[0]]
    _write(f"\x1b[{colour}m{label}\x1b[0m {line}" if os.isatty(STDOUT) else f"{label} {line}")


def _write(text: str) -> None:
    """Print a line, unbuffered. It is dropped if it cannot be written (terminal closed, disk full)."""
    with suppress(OSError):
        os.write(STDOUT, f"{text}\n".encode(errors="replace"))


class _Stack:
    def __init__(
        self, settings: Settings, data: Path, listener: socket.socket, lock: int, worker: Sequence[str]
    ) -> None:
        self.data = data
        self.began = time.monotonic()
        host, port = listener.getsockname()[:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self.socket_folder: Path | None = None
        self.redis_socket = data / "redis" / "redis.sock"
        if len(os.fsencode(self.redis_socket)) > LONGEST_SOCKET_PATH:
            self.socket_folder = Path(tempfile.mkdtemp(prefix="duet-"))
            self.redis_socket = self.socket_folder / "redis.sock"
        redis_url = f"unix://{quote(str(self.redis_socket))}"
        self.settings = settings.model_copy(update={"redis_url": redis_url, "data": data})

        environment = {
            "DUET_REDIS_URL": redis_url,
            "DUET_DATA": str(data),
            "DUET_HOST": host,
            "DUET_PORT": str(port),
            "TMPDIR": str(self.settings.temporary),
            "PYTHONUNBUFFERED": "1",
        }
        duet = [sys.executable, "-m", "duet"]
        self.reaper: Reaper | None = None
        self.redis = Supervised(
            Program(
                "redis",
                _redis_command(self.redis_socket, data / "redis"),
                folder=data / "redis",
                log=data / "redis" / REDIS_LOG,
                # Redis inherits the lock, so that after a killed stack the next one waits until its Redis has ended.
                descriptors=(lock,),
            ),
            _report,
        )
        self.apis = [
            Supervised(
                Program(
                    f"api-{number + 1}" if number else "api",
                    [*duet, "api", "--descriptor", str(listener.fileno()), "--number", str(number)],
                    {**environment, **_metrics_port(settings, 0)},
                    descriptors=(listener.fileno(),),
                ),
                _report,
            )
            for number in range(settings.api_processes)
        ]
        names = ["worker"] if settings.workers == 1 else [f"worker-{number + 1}" for number in range(settings.workers)]
        self.workers = [
            Supervised(
                Program(
                    name,
                    [sys.executable, *worker],
                    {**environment, **_thread_settings(), **_metrics_port(settings, 2 + number)},
                    # On SIGTERM it would hand its jobs back to a Redis that ends at the same time.
                    orphan_signal=signal.SIGKILL,
                    stop_seconds=settings.grace.total_seconds() + 10,
                ),
                _report,
                self._worker_died,
            )
            for number, name in enumerate(names)
        ]
        self.webhooks = Supervised(
            Program("webhooks", [*duet, "webhooks"], {**environment, **_metrics_port(settings, 1)}), _report
        )
        self.is_ready = asyncio.Event()
        self.parts = (*self.apis, *self.workers, self.webhooks, self.redis)

    async def run(self) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def on_signal() -> None:
            if stop.is_set():
                _report("duet", "Second signal: killing all remaining processes")
                for part in self.parts:
                    part.kill()
            stop.set()

        terminal = Terminal()

        def on_hangup() -> None:
            if terminal.gone or stop.is_set():
                on_signal()
                return
            _report("duet", "SIGHUP: the API and the workers read the folders of models again")
            for part in (*self.apis, *self.workers):
                part.send_signal(signal.SIGHUP)

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, on_signal)
        loop.add_signal_handler(signal.SIGHUP, on_hangup)

        start = asyncio.create_task(self._start())
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((start, stopped), return_when=asyncio.FIRST_COMPLETED)
            if start.done():
                start.result()
            await stopped
            _report("duet", f"Stopping: API, then worker{'s' * (len(self.workers) > 1)}, then Redis")
        finally:
            start.cancel()
            await asyncio.wait((start,))
            await asyncio.gather(*(api.stop() for api in self.apis))
            await asyncio.gather(*(each.stop() for each in (*self.workers, self.webhooks)))
            await self.redis.stop()
            if self.socket_folder:
                shutil.rmtree(self.socket_folder, ignore_errors=True)
        _report("duet", "Stopped")

    async def _start(self) -> None:
        _report("duet", f"Starting. Jobs and results are stored in {self.data}")
        _report("duet", f"Press Ctrl-C to stop, or: kill {os.getpid()}")
        (self.data / "redis").mkdir(mode=0o700, parents=True, exist_ok=True)
        await self.redis.start()
        await self._wait_for_redis()
        await self._requeue()
        await self.apis[0].start()
        for worker in self.workers:
            await worker.start()
        await asyncio.gather(self._wait_until_ready(), self._start_others())

    async def _wait_for_redis(self) -> None:
        import redis.asyncio

        client = redis.asyncio.Redis.from_url(self.settings.redis_url)
        reported = time.monotonic()
        while True:
            try:
                await client.ping()
                break
            except redis.RedisError as error:  # not listening yet, or loading its append-only file
                if time.monotonic() - reported > 10:
                    reported = time.monotonic()
                    _report("duet", f"Waiting for Redis: {error}")
                await asyncio.sleep(0.02)
        await client.aclose()

    async def _requeue(self) -> None:
        """Requeue the jobs that an earlier stack left unfinished."""
        from service.jobs.connection import connect
        from service.jobs.queue import JobQueue
        from service.jobs.reaper import Reaper
        from service.jobs.store import JobStore

        ageing = self.settings.ageing.total_seconds()
        store = JobStore(connect(self.settings), self.settings.lease, ageing)
        self.reaper = Reaper(store, JobQueue(self.settings), ageing)
        if count := await self._recover(self.reaper.nobody_works):
            _report("duet", f"Resuming {count} unfinished job{'s' * (count > 1)}")

    async def _start_others(self) -> None:
        """Start the webhook sender and further API processes once the rest is ready, or after READY_TIMEOUT."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.is_ready.wait(), READY_TIMEOUT)
        for part in (self.webhooks, *self.apis[1:]):
            await part.start()

    async def _worker_died(self, pid: int) -> None:
        """Requeue its jobs at once instead of when their leases expire."""
        from workers.app import process_name

        assert self.reaper is not None
        await self._recover(partial(self.reaper.worker_died, process_name(pid)))

    async def _recover(self, action: Callable[[], _T]) -> _T | None:
        from service.jobs.connection import StoreUnavailable
        from service.jobs.queue import QueueUnavailable

        deadline = time.monotonic() + RECOVERY_TIMEOUT
        while True:
            try:
                return await asyncio.to_thread(action)
            except (StoreUnavailable, QueueUnavailable) as error:  # Redis may have ended at the same time
                if time.monotonic() > deadline:
                    _report("duet", f"Interrupted jobs resume when their leases expire: {error}")
                    return None
                await asyncio.sleep(0.2)

    async def _wait_until_ready(self) -> None:
        import httpx

        reported = time.monotonic()
        async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
            while True:
                try:
                    answer = await client.get(f"{self.url}/readyz")
                    if answer.is_success:
                        break
                    state = answer.json()["detail"]
                except (httpx.HTTPError, ValueError, LookupError) as error:
                    state = f"the API does not respond ({type(error).__name__})"
                if time.monotonic() - reported > 15:
                    reported = time.monotonic()
                    _report("duet", f"Not ready yet: {state}")
                await asyncio.sleep(0.05)
        self.is_ready.set()
        _report("duet", f"Ready after {time.monotonic() - self.began:.1f} s: {self.url}")
        _report("duet", "Try:")
        key = " -H 'Authorization: Bearer YOUR-KEY'" if self.settings.key_hashes else ""
        request = f"curl -s {self.url}/generate{key} -H 'Content-Type: application/json' -d '{{\"seed\": 42}}'"
        _write(f"\n{request}\n")


def _metrics_port(settings: Settings, place: int) -> dict[str, str]:
    """Places of the metrics ports after DUET_METRICS_PORT: 0 is the API with all its processes, 1 the webhook sender, 2
    and up the workers."""
    return {"DUET_METRICS_PORT": str(settings.metrics_port + place)} if settings.metrics_port else {}


def _thread_settings() -> dict[str, str]:
    """SPINS for the worker, unless the environment already configures waiting threads."""
    chosen = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys()
    return {} if chosen else {"GOMP_SPINCOUNT": SPINS}


def _redis_command(unix_socket: Path, folder: Path) -> list[str]:
    options = {
        "port": "0",
        # Redis 6 joins its arguments with spaces, so the path must not contain one. A relative name does not.
        "unixsocket": unix_socket.name if unix_socket.parent == folder else str(unix_socket),
        "unixsocketperm": "700",
        "dir": ".",
        # Every write is on disk before Redis answers: a 202 promises that the job is stored.
        "appendonly": "yes",
        "appendfsync": "always",
        # The append-only file is complete; snapshots would only cost memory and time.
        "save": '""',
        # A full Redis refuses writes (503) instead of evicting jobs.
        "maxmemory-policy": "noeviction",
        "logfile": REDIS_LOG,
    }
    return [str(redis_program()), *(part for name, value in options.items() for part in (f"--{name}", value))]
