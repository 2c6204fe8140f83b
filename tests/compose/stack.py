"""The stack in containers on this machine's CPU, with its own project name and port.

Uses `docker compose` (v2) or else `docker-compose` (1.29).
"""

from __future__ import annotations

import json
import os
import re
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

OBJECTS = ROOT / "docker" / "objects.Dockerfile"

STAND_IN = "duet-test-versitygw"

SERVICES = ("api", "worker", "webhooks", "redis", "objects")
"""Those that keep running; `secrets` and `bucket` exit."""

ENVIRONMENT = {
    # A dead worker's job is queued again after so many seconds.
    "DUET_LEASE": "5",
    # One job at a time, so that two jobs are enough for two workers.
    "DUET_SLOTS": "1",
    "COMPOSE_INTERACTIVE_NO_CLI": "1",
    "IMAGE_TAG": "test",
}


class Failed(Exception):
    """A command failed, or a condition was not met in time."""


def docker(*arguments: str) -> str:
    """The output of `docker …`. Raises Failed."""
    return _run(["docker", *arguments], os.environ)


def compose_command() -> list[str]:
    """`docker compose` if installed, else `docker-compose`. Raises Failed."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    raise Failed("neither `docker compose` nor `docker-compose` is installed")


class Stack:
    """One compose project. Nothing runs before `up`, and nothing remains after `down`."""

    def __init__(self) -> None:
        self.project = f"duet-test-{os.getpid()}"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = compose_command()
        self._logs: list[str] = []

    def build(self) -> str:
        """Build the images. Returns the name of versitygw's image if a stand-in had to replace it. Raises Failed."""
        [(variable, image)] = re.findall(r"^ARG (VERSITYGW)=(\S+)", OBJECTS.read_text(encoding="utf-8"), re.MULTILINE)
        missing = subprocess.run(["docker", "pull", "--quiet", image], capture_output=True, check=False).returncode != 0
        if missing:
            file = "tests/compose/versitygw.Dockerfile"
            docker("build", "--quiet", "--tag", STAND_IN, "--build-arg", "PIP_INDEX_URL", "--file", file, ".")
        self.compose("build", environment={variable: STAND_IN} if missing else None)
        return image if missing else ""

    def compose(self, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
        """The command's output. Raises Failed."""
        return _run(self._line(*arguments), self._environment(environment))

    def refused(self, *arguments: str, environment: Mapping[str, str]) -> str:
        """The message of a command that must fail. Raises Failed if it succeeds."""
        line = self._line(*arguments)
        answer = subprocess.run(
            line, cwd=ROOT, env=self._environment(environment), capture_output=True, text=True, check=False, timeout=120
        )
        if answer.returncode == 0:
            raise Failed(f"{' '.join(arguments)} should have failed")
        return answer.stdout + answer.stderr

    def version(self) -> str:
        """Compose's version."""
        return _run([*self._command, "version", "--short"], os.environ).strip()

    def client(self) -> Duet:
        return Duet(self.url)

    def containers(self, service: str) -> list[str]:
        """Ids of its containers, including exited ones."""
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
        """The output of a Python program in a running container."""
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
        """Store the logs of all present containers, before they are removed."""
        for service in (*SERVICES, "secrets", "bucket"):
            for container in self.containers(service):
                lines = _run(["docker", "logs", container], os.environ, both=True).splitlines()
                self._logs += [f"{service} {line}" for line in lines]

    def logs(self, container: str) -> str:
        """The log of a container."""
        return _run(["docker", "logs", container], os.environ, both=True)

    def lines(self) -> list[tuple[str, str]]:
        """(service, line) of the logs stored by `keep_logs`."""
        return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in self._logs]

    def down(self) -> None:
        """Remove containers, network and volumes. Raises Failed if any remains."""
        self.compose("down", "--volumes", "--timeout", "20")
        label = f"label=com.docker.compose.project={self.project}"
        for kind in (("ps", "-aq"), ("volume", "ls", "-q"), ("network", "ls", "-q")):
            if left := docker(*kind, "--filter", label).split():
                raise Failed(f"{' '.join(kind)} still lists {left}")

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
