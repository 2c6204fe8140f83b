""".env.example, made from docker-compose.yml and from the settings themselves.

python -m tests.compose.environment        # writes it anew; tests/compose/test_files.py fails where that is due
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
# What `docker compose` reads as .env, beside docker-compose.yml: copy this file, and set what you need. Every line has
# the value that holds without it. A wrong value stops the service at once, with a sentence that names it.
#
# Written by `python -m tests.compose.environment`.
"""

OF_THE_STACK = {
    "COMPOSE_PROJECT_NAME": "what the names of containers and volumes begin with; where unset the name of this folder",
    "COMPOSE_FILE": "which files compose reads; for a host without a GPU docker-compose.yml:docker/cpu.yml",
    "API_PORT": "the API's port on this host; on which address: DUET_PUBLISHED_ON, further below",
    "MODELS_FOLDER": "folder of published models, one folder each, read only; a path begins with / or ./",
    "GPU_LOCKS": "folder by whose locks workers share out the GPUs; give two stacks on one host the same path, "
    "beginning with / and writable for the user 10001",
    "WORKER_STOP_GRACE": "how long a worker that is asked to stop may take: DUET_GRACE and ten seconds more",
    "WORKER_MEMORY": "most memory of each worker; beyond it the worker is killed, and its jobs begin anew",
    "API_MEMORY": "the same for the API, whose children look through the uploads",
    "REDIS_MEMORY": "the same for Redis: twice REDIS_MAXMEMORY",
    "REDIS_MAXMEMORY": "what Redis may keep; beyond it jobs are refused with 503, and none is lost",
    "OBJECTS_MEMORY": "the same for the S3 server",
    "IMAGE_TAG": "which images are built and run",
    "GRAFANA_PASSWORD": "password of Grafana's user admin, with --profile monitoring; drawn at the first start "
    "where unset",
    "GRAFANA_PORT": "Grafana's port, on this machine only",
    "REVISION": "what the images' label org.opencontainers.image.revision says",
    "PIP_INDEX_URL": "package index that the images are built from, where it is not the public one",
}
"""Variables of docker-compose.yml that are no settings, in the order of the example."""

DEFAULTS = {"COMPOSE_FILE": "docker-compose.yml:docker-compose.override.yml", "PIP_INDEX_URL": ""}
"""Where docker-compose.yml has none."""


def text() -> str:
    """The whole file."""
    defaults = defaults_of_the_stack()
    parts = [HEAD, "# The stack itself.\n"]
    parts += [_entry(name, what, DEFAULTS.get(name, defaults.get(name, ""))) for name, what in OF_THE_STACK.items()]
    parts.append("# Settings of Duet, the same for all its processes. Durations are written 90s, 30m, 12h, 7d.\n")
    fixed = []
    for field, info in Settings.model_fields.items():
        name, what = f"{PREFIX}{field.upper()}", info.description or ""
        if name in passed_on():
            parts.append(_entry(name, what, defaults.get(name, shown(info.default).strip("`"))))
        else:
            fixed.append(_comment(f"{name}: {what}"))
    parts.append("# The stack sees to these, or has no use for them; a line here would change nothing.\n")
    parts.append("\n".join(fixed) + "\n")
    return "\n".join(parts)


def defaults_of_the_stack() -> dict[str, str]:
    """The variables that docker-compose.yml names, with what holds where they are not set."""
    return dict(re.findall(r"\$\{(\w+):-([^}]*)\}", COMPOSE.read_text(encoding="utf-8")))


def passed_on() -> set[str]:
    """Settings whose value in .env reaches the containers."""
    source = COMPOSE.read_text(encoding="utf-8")
    bare = set(re.findall(rf"^ +({PREFIX}\w+):$", source, re.MULTILINE))
    return bare | {name for name in defaults_of_the_stack() if name.startswith(PREFIX)}


def _entry(name: str, what: str, default: str) -> str:
    return f"{_comment(what)}\n# {name}={default}\n"


def _comment(what: str) -> str:
    return "\n".join(textwrap.wrap(what, 118, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False))


if __name__ == "__main__":
    EXAMPLE.write_text(text(), encoding="utf-8")
