"""Checks of the container files without running them: nothing is stale, and both compose versions can read them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import PREFIX, Settings
from tests.compose import environment, requirements

ROOT = Path(__file__).parents[2]
COMPOSE = [ROOT / "docker-compose.yml", ROOT / "docker-compose.override.yml", ROOT / "docker" / "cpu.yml"]
DOCKERFILES = sorted([*ROOT.glob("docker/*.Dockerfile"), *ROOT.glob("tests/compose/*.Dockerfile")])

OF_A_STACK_OF_ITS_OWN = {
    "data", "host", "port", "api_processes", "workers", "gpu_locks", "workers_per_gpu", "s3_secret_key"
}  # fmt: skip
"""Settings that come from the image or a file, or that only `duet serve` or the worker reads."""


def stack() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE[0].read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("path", sorted(requirements.lists()))
def test_the_package_lists_of_the_images_agree_with_the_lock(path: str) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == requirements.lists()[path], (
        "run: python -m tests.compose.requirements"
    )


def test_the_api_lists_no_torch_and_the_worker_lists_it() -> None:
    lists = requirements.lists()
    heavy = re.compile(r"^(torch|triton|nvidia|cuda|numpy)", re.MULTILINE)
    assert not heavy.search(lists["docker/requirements-api.txt"])
    assert re.search(r"^torch==", lists["docker/requirements-torch.txt"], re.MULTILINE)
    pinned = {line for entry in requirements.locked().values() for line in entry.splitlines()}
    assert {line for text in lists.values() for line in text.splitlines() if not line.startswith("#")} <= pinned


def test_every_package_is_pinned_with_hashes_and_serving_has_a_subset() -> None:
    both = [(ROOT / name).read_text(encoding="utf-8") for name in ("requirements.lock", "requirements-dev.lock")]
    for text in (*both, *requirements.lists().values()):
        assert len(re.findall(r"==\S+.* \\\n    --hash=sha256:", text)) == len(
            re.findall(r"^[\w.-]+==", text, re.MULTILINE)
        )
    serving, everything = (set(re.findall(r"^([\w.-]+==\S+)", text, re.MULTILINE)) for text in both)
    assert serving < everything


def test_the_example_environment_is_not_stale() -> None:
    assert environment.EXAMPLE.read_text(encoding="utf-8") == environment.text(), (
        "run: python -m tests.compose.environment"
    )


def test_the_example_explains_every_variable_and_every_setting() -> None:
    text = environment.EXAMPLE.read_text(encoding="utf-8")
    wanted = set(environment.defaults_of_the_stack()) | {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    explained = set(re.findall(r"^# (\w+)(?==|: )", text, re.MULTILINE))
    assert wanted <= explained


def test_the_stack_passes_on_every_setting() -> None:
    settings = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields if name not in OF_A_STACK_OF_ITS_OWN}
    services = stack()["services"]
    assert settings <= set(services["api"]["environment"])
    assert {*settings, "DUET_GPU_LOCKS", "DUET_WORKERS_PER_GPU"} - {"DUET_PUBLISHED_ON"} <= set(
        services["worker"]["environment"]
    )


def test_a_worker_has_time_for_its_grace() -> None:
    [default] = re.findall(r"\$\{WORKER_STOP_GRACE:-(\d+)s\}", stack()["services"]["worker"]["stop_grace_period"])
    assert int(default) >= Settings.model_fields["grace"].default.total_seconds() + 10


def test_every_service_is_confined() -> None:
    for name, service in stack()["services"].items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"], name
        assert service["logging"]["options"]["max-size"], name
        assert name in {"bucket", "secrets"} or (service["restart"] == "unless-stopped" and service["healthcheck"]), (
            name
        )


def test_only_the_api_is_published_and_the_dashboard_on_loopback() -> None:
    published = {name: service["ports"] for name, service in stack()["services"].items() if "ports" in service}
    assert published == {
        "api": ["${DUET_PUBLISHED_ON:-127.0.0.1}:${API_PORT:-8000}:8000"],
        "grafana": ["127.0.0.1:${GRAFANA_PORT:-3000}:3000"],
    }


def test_only_the_override_file_reserves_gpus() -> None:
    assert "deploy" not in stack()["services"]["worker"]
    override = yaml.safe_load(COMPOSE[1].read_text(encoding="utf-8"))
    [device] = override["services"]["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_both_compose_versions_can_read_it(path: Path) -> None:
    """docker-compose 1.29 knows no `name` on top, no `required` of an env_file, and no tags such as !reset."""
    text = path.read_text(encoding="utf-8")
    document = yaml.safe_load(text)
    assert "name" not in document
    assert "env_file" not in text
    assert "!" not in re.sub(r"#.*", "", text)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_images_can_be_built_without_buildkit(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "# syntax" not in text
    assert "--mount" not in text
    assert "<<" not in text
    assert path.parent.name != "docker" or re.search(r"^USER \d+", text, re.MULTILINE)


@pytest.mark.parametrize("name", ["api", "worker"])
def test_the_label_has_the_version_of_the_project(name: str) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    text = (ROOT / "docker" / f"{name}.Dockerfile").read_text(encoding="utf-8")
    assert f"ARG VERSION={version}\n" in text
