"""docker/monitoring and docs/monitoring.md name metrics that exist, and every one that exists; the alerts are tested by
Prometheus' own promtool where it is installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from model.runtime.engine import Engine
from service.metrics.api import ApiMetrics
from service.settings import Settings
from service.webhooks.metrics import WebhookMetrics
from tests.exposition import names
from workers.engine_metrics import EngineCollector, memory_families
from workers.metrics import WorkerMetrics
from workers.model_metrics import ModelCollector
from workers.model_pool import ModelPool

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docker" / "monitoring"
DASHBOARD = FOLDER / "grafana" / "dashboards" / "duet.json"


@pytest.fixture
def exposed(settings: Settings) -> set[str]:
    """The names of all metrics of the API, of a worker with a GPU, and of what sends webhooks."""
    found = names(ApiMetrics(settings).scraped.collect()) | names(WorkerMetrics().registry.collect())
    found |= names(WebhookMetrics().registry.collect()) | names(EngineCollector(Engine(1), dict, None).collect())
    found |= names(memory_families("cuda:0", {"used": 1}, 2)) | names(ModelCollector(ModelPool.of({})).collect())
    return {name for name in found if name.startswith("duet_")}


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def expressions() -> Iterator[str]:
    """Everything that is asked of Prometheus."""
    yield from (rule["expr"] for rule in rules())
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))


def named(expression: str) -> set[str]:
    return set(re.findall(r"\bduet_[a-z_]+", expression))


def test_rules_and_dashboard_ask_for_what_there_is(exposed: set[str]) -> None:
    asked = [(expression, named(expression)) for expression in expressions()]
    assert len(asked) > 50
    for expression, metrics in asked:
        assert metrics <= exposed, expression


def test_every_metric_is_explained_and_no_other(exposed: set[str]) -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `(duet_[a-z_]+)`", page, re.MULTILINE))
    assert rows == {re.sub(r"_(bucket|sum|count)$", "", name) for name in exposed}


def test_every_alert_is_explained_and_tested() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    alerts = {rule["alert"] for rule in rules()}
    tests = yaml.safe_load((FOLDER / "rules_test.yml").read_text())["tests"]
    fired = {case["alertname"] for test in tests for case in test.get("alert_rule_test", ()) if case["exp_alerts"]}
    assert set(re.findall(r"^\| `(Duet\w+)`", page, re.MULTILINE)) == alerts == fired
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]


def test_the_dashboard_is_whole_and_its_source_is_provisioned() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]
    (source,) = yaml.safe_load((FOLDER / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert {panel["datasource"]["uid"] for panel in panels if panel["type"] != "row"} == {source["uid"]}
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in panels
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(set(places)) == len(places), "panels lie over each other"
    assert max(x for x, _ in places) < 24


def test_promtool_accepts_the_rules_and_their_tests_pass() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: Debian has it in the package prometheus")
    for command in (["check", "config", "prometheus.yml"], ["test", "rules", "rules_test.yml"]):
        run = subprocess.run([promtool, *command], cwd=FOLDER, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout + run.stderr
