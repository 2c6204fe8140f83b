"""Writes .env.example from docker-compose.yml and the settings.

python -m tests.compose.environment        # tests/compose/test_files.py fails if the file is stale
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from service.settings import PREFIX, Settings
from tests.settings_table import shown

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / ".env.example"
COMPOSE = ROOT / "docker-compose.yml"

HEAD = """\
# Copy this file to .env beside docker-compose.yml, and set what you need. Each line shows the default. A wrong value
# stops the service at once with a message that names it.
#
# Written by `python -m tests.compose.environment`.
"""

OF_THE_STACK = {
    "COMPOSE_PROJECT_NAME": "prefix of the names of containers and volumes; by default the name of this folder",
    "COMPOSE_FILE": "files that compose reads; for a host without a GPU docker-compose.yml:docker/cpu.yml",
    "API_PORT": "the API's port on this host; its address is DUET_PUBLISHED_ON, below",
    "MODELS_FOLDER": "folder of published models, one folder each, read only; a path starts with / or ./",
    "GPU_LOCKS": "folder of the lock files by which workers claim GPUs; two stacks on one host need the same path, "
    "which starts with / and is writable for user 10001",
    "WORKER_STOP_GRACE": "time for a worker to stop: DUET_GRACE plus ten seconds",
    "WORKER_MEMORY": "memory limit of each worker; beyond it the worker is killed, and its jobs start over",
    "API_MEMORY": "memory limit of the API, including its child processes that probe uploads",
    "REDIS_MEMORY": "memory limit of Redis; twice REDIS_MAXMEMORY",
    "REDIS_MAXMEMORY": "data limit of Redis; beyond it jobs are refused with 503, and none is lost",
    "OBJECTS_MEMORY": "memory limit of the S3 server",
    "IMAGE_TAG": "tag of the images that are built and run",
    "GRAFANA_PASSWORD": "password of Grafana's user admin, with --profile monitoring; by default drawn at the "
    "first start",
    "GRAFANA_PORT": "Grafana's port, on this machine only",
    "REVISION": "the images' label org.opencontainers.image.revision",
    "PIP_INDEX_URL": "package index for building the images; by default the public one",
}
"""Variables of docker-compose.yml that are not settings of Duet, in the order of the file."""

DEFAULTS = {"COMPOSE_FILE": "docker-compose.yml:docker-compose.override.yml", "PIP_INDEX_URL": ""}
"""Defaults that docker-compose.yml does not state."""


def text() -> str:
    """Content of the file."""
    defaults = defaults_of_the_stack()
    parts = [HEAD, "# The stack.\n"]
    parts += [_entry(name, what, DEFAULTS.get(name, defaults.get(name, ""))) for name, what in OF_THE_STACK.items()]
    parts.append("# Settings of Duet, shared by all its processes. Durations are written 90s, 30m, 12h, 7d.\n")
    fixed = []
    for field, info in Settings.model_fields.items():
        name, what = f"{PREFIX}{field.upper()}", info.description or ""
        if name in passed_on():
            parts.append(_entry(name, what, defaults.get(name, shown(info.default).strip("`"))))
        else:
            fixed.append(_comment(f"{name}: {what}"))
    parts.append("# Set by the stack or not used in it; a line here has no effect.\n")
    parts.append("\n".join(fixed) + "\n")
    return "\n".join(parts)


def defaults_of_the_stack() -> dict[str, str]:
    """Variables of docker-compose.yml with their defaults."""
    return dict(re.findall(r"\$\{(\w+):-([^}]*)\}", COMPOSE.read_text(encoding="utf-8")))


def passed_on() -> set[str]:
    """Settings that docker-compose.yml passes from .env to the containers."""
    source = COMPOSE.read_text(encoding="utf-8")
    bare = set(re.findall(rf"^ +({PREFIX}\w+):$", source, re.MULTILINE))
    return bare | {name for name in defaults_of_the_stack() if name.startswith(PREFIX)}


def _entry(name: str, what: str, default: str) -> str:
    return f"{_comment(what)}\n# {name}={default}\n"


def _comment(what: str) -> str:
    return "\n".join(textwrap.wrap(what, 118, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False))


if __name__ == "__main__":
    EXAMPLE.write_text(text(), encoding="utf-8")
