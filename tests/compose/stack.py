"""The containers of the stack, on the CPU of this machine, under a project name and a port of their own.

Works through `docker compose` (v2) or `docker-compose` (1.29), whichever is there.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from duet.client import Duet

ROOT = Path(__file__).parents[2]

FILES = ("docker-compose.yml", "docker/cpu.yml", "tests/compose/stand-ins.yml")

SERVICES = ("api", "worker", "webhooks", "redis", "objects")
"""Those that stay; `bucket` ends by itself."""

ENVIRONMENT = {
    # A dead worker's job is missed after so many seconds.
    "DUET_LEASE": "5",
    # One job at a time, so that two jobs are enough for two workers.
    "DUET_SLOTS": "1",
    "COMPOSE_INTERACTIVE_NO_CLI": "1",
    "IMAGE_TAG": "test",
}


class Failed(Exception):
    """A command failed, or something did not come true in time."""


def docker(*arguments: str) -> str:
    """What `docker …` prints. Raises Failed."""
    return _run(["docker", *arguments], os.environ)


def compose_command() -> list[str]:
    """`docker compose`, or where there is none `docker-compose`. Raises Failed."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    raise Failed("neither `docker compose` nor `docker-compose` is here")


class Stack:
    """One project of compose. Nothing runs before `up`, and nothing is left after `down`."""

    def __init__(self) -> None:
        self.project = f"duet-test-{os.getpid()}"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = compose_command()
        self._logs: list[str] = []

    def compose(self, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
        """What the command prints. Raises Failed if it fails."""
        return _run(self._line(*arguments), self._environment(environment))

    def refused(self, *arguments: str, environment: Mapping[str, str]) -> str:
        """What a command says that has to fail. Raises Failed if it does not."""
        line = self._line(*arguments)
        answer = subprocess.run(
            line, cwd=ROOT, env=self._environment(environment), capture_output=True, text=True, check=False, timeout=120
        )
        if answer.returncode == 0:
            raise Failed(f"{' '.join(arguments)} was to be refused, and was not")
        return answer.stdout + answer.stderr

    def version(self) -> str:
        """Of compose."""
        return _run([*self._command, "version", "--short"], os.environ).strip()

    def client(self) -> Duet:
        return Duet(self.url)

    def containers(self, service: str) -> list[str]:
        """Ids of its containers, those that have ended included."""
        return docker(
            "ps", "-aq", "--no-trunc", "--filter", f"label=com.docker.compose.project={self.project}",
            "--filter", f"label=com.docker.compose.service={service}",
        ).split()  # fmt: skip

    def container(self, service: str) -> str:
        found = self.containers(service)
        if len(found) != 1:
            raise Failed(f"{service} has {len(found)} containers")
        return found[0]

    def state(self, container: str) -> dict[str, Any]:
        state: dict[str, Any] = self.inspect(container)["State"]
        return state

    def inspect(self, container: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(docker("inspect", container))[0]
        return found

    def python(self, container: str, program: str, *arguments: str) -> str:
        """What a Python program prints in a running container."""
        return docker("exec", container, "python", "-c", program, *arguments)

    def healthy(self, services: Iterable[str] = SERVICES, seconds: float = 240.0) -> None:
        """Return when every container of the services is healthy. Raises Failed."""
        deadline = time.monotonic() + seconds
        while True:
            states = {
                f"{service} {container[:12]}": self.state(container)
                for service in services
                for container in self.containers(service)
            }
            unwell = [name for name, state in states.items() if state.get("Health", {}).get("Status") != "healthy"]
            if states and not unwell:
                return
            if time.monotonic() > deadline:
                says = {name: states[name].get("Health", {}).get("Log", [])[-1:] for name in unwell}
                raise Failed(f"not healthy within {seconds:g} s: {json.dumps(says)}")
            time.sleep(1)

    def keep_logs(self) -> None:
        """Remember the lines of all containers that are there now, before they go."""
        for service in (*SERVICES, "bucket"):
            for container in self.containers(service):
                lines = _run(["docker", "logs", container], os.environ, both=True).splitlines()
                self._logs += [f"{service} {line}" for line in lines]

    def logs(self, container: str) -> str:
        """All that a container has said."""
        return _run(["docker", "logs", container], os.environ, both=True)

    def lines(self) -> list[tuple[str, str]]:
        """(service, line) of all that was said, of what `keep_logs` remembered."""
        return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in self._logs]

    def down(self) -> None:
        """Remove containers, network and volumes. Raises Failed if one is left."""
        self.compose("down", "--volumes", "--timeout", "20")
        label = f"label=com.docker.compose.project={self.project}"
        for kind in (("ps", "-aq"), ("volume", "ls", "-q"), ("network", "ls", "-q")):
            if left := docker(*kind, "--filter", label).split():
                raise Failed(f"{' '.join(kind)} still shows {left}")

    def _line(self, *arguments: str) -> list[str]:
        files = [part for name in FILES for part in ("-f", name)]
        return [*self._command, "-p", self.project, *files, *arguments]

    def _environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DUET_")}
        return {**kept, **ENVIRONMENT, "API_PORT": str(self.port), **(more or {})}


def _run(command: list[str], environment: Mapping[str, str], both: bool = False) -> str:
    answer = subprocess.run(command, cwd=ROOT, env=dict(environment), capture_output=True, text=True, check=False)
    if answer.returncode:
        raise Failed(f"{' '.join(command)}: {answer.returncode}\n{answer.stdout[-2000:]}{answer.stderr[-4000:]}")
    return answer.stdout + (answer.stderr if both else "")
