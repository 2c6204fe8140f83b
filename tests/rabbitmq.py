"""A RabbitMQ of the tests' own, from the programs that a system's package brings."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

from tests.waiting import until

_PROGRAMS = f"/usr/lib/rabbitmq/bin{os.pathsep}{os.environ.get('PATH', '')}"
"""Debian's own folder first: what lies in the PATH there changes to a user of its own."""


def installed() -> bool:
    return all(shutil.which(name, path=_PROGRAMS) for name in ("rabbitmq-server", "epmd"))


class RabbitServer:
    """RabbitMQ on free ports of 127.0.0.1, with all that it keeps in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        port, distribution, epmd = _free_ports(3)
        self._port = port
        self.url = f"amqp://guest:guest@127.0.0.1:{port}//"
        self._environment = {
            **os.environ,
            "HOME": str(folder),  # where Erlang keeps its cookie
            "ERL_EPMD_PORT": str(epmd),
            "RABBITMQ_NODENAME": f"duet-{port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
        }

    def start(self) -> None:
        with (self._folder / "out").open("ab") as log:
            self._process = subprocess.Popen(
                [_program("rabbitmq-server")],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(self._answers, "RabbitMQ answers", 60)

    def stop(self) -> None:
        """In order: durable queues and messages stay."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """As the power going out would."""
        self._end(signal.SIGKILL)

    def forget(self) -> None:
        """While it is stopped: lose the disk."""
        shutil.rmtree(self._folder / "mnesia")

    def close(self) -> None:
        """Stop it, and the name server that every Erlang starts and leaves behind."""
        self.stop()
        # It does not go as long as it knows of a node, which it does for a moment longer.
        until(lambda: self._epmd("-kill") and not self._epmd("-names"), "Erlang's name server is gone")

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, number)
            self._process.wait(30)
            self._process = None
            until(lambda: not self._answers(), "nobody listens any more")

    def _epmd(self, command: str) -> bool:
        ended = subprocess.run([_program("epmd"), command], env=self._environment, capture_output=True, check=False)
        return ended.returncode == 0

    def _answers(self) -> bool:
        assert self._process is None or self._process.poll() is None, (self._folder / "out").read_text()
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self._port)) == 0


def _program(name: str) -> str:
    path = shutil.which(name, path=_PROGRAMS)
    assert path is not None
    return path


def _free_ports(count: int) -> list[int]:
    """Ports below those that outgoing connections take: RabbitMQ binds them only seconds later."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            if port not in ports:
                ports.append(port)
    return ports
