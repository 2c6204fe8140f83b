"""pyproject.toml declares every package that the four packages of Duet import."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGES = ("duet", "model", "service", "workers")

MODULES = {
    "c2pa-python": "c2pa",
    "hiredis": "",
    "httptools": "",
    "nvidia-ml-py": "pynvml",
    "opentelemetry-api": "opentelemetry.(context|trace|propagate)",
    "opentelemetry-exporter-otlp-proto-http": "opentelemetry.exporter.otlp.proto.http",
    "opentelemetry-sdk": "opentelemetry.sdk",
    "pillow": "PIL",
    "python-multipart": "python_multipart",
    "python-ulid": "ulid",
    "uvloop": "",
}
"""Modules of distributions that have other names (patterns); none if another package imports it."""

OPTIONAL = {"matplotlib", "tensorboard", "triton"}
"""Used only if installed: matplotlib for plots, tensorboard with the extra `train`, triton beside torch on CUDA."""


def imported() -> Iterator[tuple[str, Path]]:
    """Modules that the sources import from elsewhere, and the files that import them."""
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module == "opentelemetry":
                names = [f"opentelemetry.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            else:
                continue
            for name in names:
                if name.partition(".")[0] not in {*sys.stdlib_module_names, *PACKAGES}:
                    yield name, path


def test_every_imported_package_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["otel"]]
    declared = [canonicalize_name(Requirement(line).name) for line in lines]
    patterns = [MODULES.get(name, name.replace("-", "_")) for name in declared]
    known = re.compile("|".join(rf"{pattern}(\..*)?" for pattern in [*patterns, *OPTIONAL] if pattern))
    undeclared = {name: str(path.relative_to(ROOT)) for name, path in imported() if not known.fullmatch(name)}
    assert undeclared == {}
