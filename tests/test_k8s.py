"""The Kubernetes manifests: valid by Kubernetes' schemas, and consistent with the service and with each other.

Without a cluster. KEDA's resource is not among the schemas, so it is compared with its documentation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from service.settings import PREFIX, Settings, load_settings
from tests.service.test_settings import HASH

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docker" / "k8s"
BASE = FOLDER / "base"
VERSIONS = ("1.29", "1.33", "1.37")
"""Versions of Kubernetes: an old one and recent ones."""

NOT_KUBERNETES = ("keda.sh/", "kustomize.config.k8s.io/")

FILES = sorted(FOLDER.rglob("*.yaml"))
OBJECTS = [
    (path, each)
    for path in FILES
    for each in yaml.safe_load_all(path.read_text(encoding="utf-8"))
    if not each["apiVersion"].startswith("kustomize")
]


def named(kind: str, name: str) -> dict[str, Any]:
    (found,) = [each for _, each in OBJECTS if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return dict(found)


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and pod template of each workload."""
    for _, each in OBJECTS:
        if "template" in each.get("spec", {}):
            yield each["metadata"]["name"], each["spec"]["template"]


PODS = dict(pods())


def container(pod: str) -> dict[str, Any]:
    (only,) = PODS[pod]["spec"]["containers"]
    return dict(only)


def environment(pod: str) -> dict[str, Any]:
    """Environment of a container; values from the Secret are None."""
    own = {each["name"]: each.get("value") for each in container(pod).get("env", ())}
    shared = container(pod).get("envFrom")
    return {**(named("ConfigMap", "duet")["data"] if shared else {}), **own}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("path", "each"),
    [pair for pair in OBJECTS if not pair[1]["apiVersion"].startswith(NOT_KUBERNETES)],
    ids=lambda value: value.stem if isinstance(value, Path) else f"{value['kind']}-{value['metadata']['name']}",
)
def test_manifests_are_valid_by_kubernetes_schemas(path: Path, each: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(each, version, strict=True)


def test_an_invalid_manifest_is_detected() -> None:
    wrong = {**named("Deployment", "api"), "replica": 2}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_every_file_is_part_of_a_kustomization() -> None:
    listed = set()
    for path in FOLDER.rglob("kustomization.yaml"):
        for name in yaml.safe_load(path.read_text(encoding="utf-8"))["resources"]:
            resource = (path.parent / name).resolve()
            assert resource.exists(), f"{path}: {name}"
            listed.add(resource)
    others = {path for path in FILES if path.name not in ("kustomization.yaml", "secret.example.yaml")}
    assert {path.resolve() for path in others} <= listed


def test_all_are_in_one_namespace() -> None:
    for path, each in OBJECTS:
        if each["kind"] != "Namespace":
            assert each["metadata"]["namespace"] == "duet", path


@pytest.mark.parametrize("pod", ["api", "worker", "webhooks"])
def test_the_service_starts_with_these_settings(pod: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {name: value for name, value in environment(pod).items() if name.startswith(PREFIX)}
    assert {name.removeprefix(PREFIX).lower() for name in given} <= set(Settings.model_fields)
    keys = {"DUET_API_KEYS": f"name:{HASH}", "DUET_S3_ACCESS_KEY": "key", "DUET_S3_SECRET_KEY": "secret"}
    for name, value in given.items():
        monkeypatch.setenv(name, keys[name] if value is None else value.replace("$(REDIS_PASSWORD)", "change-me"))
    settings = load_settings()
    if pod == "api":
        settings.check_published()
    assert settings.storage_url.startswith("s3://")
    assert settings.redis_url == "redis://:change-me@redis:6379/0"
    assert settings.metrics_port == 9464


def test_exactly_the_secrets_are_in_the_secret() -> None:
    wanted = {
        each["valueFrom"]["secretKeyRef"]["key"]
        for pod in PODS
        for each in container(pod).get("env", ())
        if "valueFrom" in each
    }
    assert wanted == set(named("Secret", "duet")["stringData"])
    secret = {f"{PREFIX}{name.upper()}" for name in ("api_keys", "s3_access_key", "s3_secret_key", "webhook_secret")}
    assert not secret & set(named("ConfigMap", "duet")["data"])


@pytest.mark.parametrize("pod", sorted(PODS))
def test_every_container_is_restricted(pod: str) -> None:
    spec, own = PODS[pod]["spec"], container(pod)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False, "REDIS_PORT and the like would be set"
    assert own["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "memory" in own["resources"]["limits"]
    assert {"cpu", "memory"} <= set(own["resources"]["requests"])
    assert "latest" not in own["image"]
    assert ":" in own["image"]


@pytest.mark.parametrize("pod", ["api", "bucket", "webhooks", "worker"])
def test_images_are_built_from_this_project(pod: str) -> None:
    name = container(pod)["image"].partition(":")[0]
    dockerfile = ROOT / "docker" / f"{name.removeprefix('duet-')}.Dockerfile"
    text = dockerfile.read_text(encoding="utf-8")
    user = re.search(r"^USER (\d+):(\d+)$", text, re.MULTILINE)
    assert user is not None
    context = PODS[pod]["spec"]["securityContext"]
    assert (str(context["runAsUser"]), str(context["runAsGroup"])) == user.groups()
    mounted = {each["mountPath"] for each in container(pod)["volumeMounts"]}
    assert {"/data", "/tmp"} <= mounted, "everything else is read-only"


def test_a_worker_has_time_for_its_grace() -> None:
    settings = load_settings(grace=environment("worker")["DUET_GRACE"])
    assert PODS["worker"]["spec"]["terminationGracePeriodSeconds"] >= settings.grace.total_seconds() + 10


def test_a_worker_has_one_gpu() -> None:
    resources = container("worker")["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] == 1
    assert environment("worker")["DUET_DEVICE"] == "cuda"


def test_redis_persists_every_write() -> None:
    arguments = " ".join(container("redis")["args"])
    for part in ("--appendonly yes", "--appendfsync always", "--maxmemory-policy noeviction"):
        assert part in arguments
    (claim,) = named("StatefulSet", "redis")["spec"]["volumeClaimTemplates"]
    assert {"name": claim["metadata"]["name"], "mountPath": "/data"} in container("redis")["volumeMounts"]


def test_an_api_without_a_worker_is_ready() -> None:
    """Otherwise workers scaled to zero would never be scaled up."""
    assert "httpGet" not in container("api")["readinessProbe"]
    assert container("api")["readinessProbe"]["exec"]["command"] == ["python", "-m", "service.healthcheck", "api"]


def test_selectors_match_pods() -> None:
    """Services, budgets and workloads select existing labels and ports."""
    labels = {name: pod["metadata"]["labels"] for name, pod in PODS.items()}
    for path, each in OBJECTS:
        spec = each.get("spec", {})
        wanted = {
            "Service": lambda spec=spec: spec["selector"],
            "PodDisruptionBudget": lambda spec=spec: spec["selector"]["matchLabels"],
            "Deployment": lambda spec=spec: spec["selector"]["matchLabels"],
            "StatefulSet": lambda spec=spec: spec["selector"]["matchLabels"],
        }.get(each["kind"])
        if wanted is not None:
            assert any(wanted().items() <= own.items() for own in labels.values()), path
        if each["kind"] == "Service":
            ports = {port["name"] for port in container(each["metadata"]["name"])["ports"]}
            assert {port["targetPort"] for port in spec["ports"]} <= ports


def test_keda_scales_by_an_existing_metric() -> None:
    """Fields of ScaledObject and of its Prometheus scaler as documented for KEDA 2.17."""
    scaled = named("ScaledObject", "worker")
    assert scaled["apiVersion"] == "keda.sh/v1alpha1"
    spec = scaled["spec"]
    assert set(spec) <= {
        *("scaleTargetRef", "pollingInterval", "cooldownPeriod", "initialCooldownPeriod", "idleReplicaCount"),
        *("minReplicaCount", "maxReplicaCount", "fallback", "advanced", "triggers"),
    }
    assert named("Deployment", spec["scaleTargetRef"]["name"])["kind"] == "Deployment"
    assert 0 <= spec["minReplicaCount"] < spec["maxReplicaCount"]
    assert spec["fallback"]["behavior"] in ("static", "currentReplicas", "currentReplicasIfHigher")
    assert {"failureThreshold", "replicas"} <= set(spec["fallback"])
    started = container("worker")["startupProbe"]
    assert spec["cooldownPeriod"] >= started["periodSeconds"] * started["failureThreshold"] / 2, (
        "a cold start must pay off"
    )
    (trigger,) = spec["triggers"]
    assert trigger["type"] == "prometheus"
    metadata = trigger["metadata"]
    assert set(metadata) == {"serverAddress", "query", "threshold", "activationThreshold", "ignoreNullValues"}
    assert all(isinstance(value, str) for value in metadata.values()), "KEDA requires strings"
    (metric,) = set(re.findall(r"duet_\w+", metadata["query"]))
    assert f'"{metric}"' in (ROOT / "service" / "metrics" / "queue.py").read_text(encoding="utf-8")


def test_kubernetes_accepts_keda_s_scaling_behaviour() -> None:
    behaviour = named("ScaledObject", "worker")["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "worker"}
    autoscaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "worker"},
        "spec": {"maxReplicas": 16, "scaleTargetRef": target, "behavior": behaviour},
    }
    kubernetes_validate.validate(autoscaler, VERSIONS[-1], strict=True)


def test_apply_leaves_the_number_of_workers_to_keda() -> None:
    patches = yaml.safe_load((FOLDER / "keda" / "kustomization.yaml").read_text(encoding="utf-8"))["patches"]
    (patch,) = patches
    assert patch["target"] == {"kind": "Deployment", "name": "worker"}
    (step,) = yaml.safe_load(patch["patch"])
    assert step == {"op": "remove", "path": "/spec/replicas"}
    assert "replicas" in named("Deployment", "worker")["spec"]
