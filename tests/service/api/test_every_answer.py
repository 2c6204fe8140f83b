"""Rules for the responses of all routes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import httpx
import pytest
from fastapi import APIRouter

from service.app import create_app
from service.settings import Settings
from tests import demo_model
from tests.conftest import RunningApi
from tests.service.answers import problem
from tests.service.keys import client_of, with_keys


def test_the_clients_request_id_is_used_or_a_new_one_is_made(client: httpx.Client) -> None:
    assert client.get("/healthz", headers={"X-Request-ID": "mine-7"}).headers["x-request-id"] == "mine-7"
    made = {client.get("/healthz").headers["x-request-id"] for _ in range(3)}
    assert len(made) == 3
    for unfit in ("a b", "x" * 129, 'a"b', "{}"):
        assert client.get("/nothing", headers={"X-Request-ID": unfit}).headers["x-request-id"] != unfit


@pytest.mark.parametrize("path", ["/nothing", "/v1/nothing", "/jobs/", "/redoc", "/v2/generate", "/%00", "/ü"])
def test_an_unknown_path_is_not_found(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "not_found"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/generate", "POST"),
        ("PUT", "/v2a", "POST"),
        ("DELETE", "/models", "GET, HEAD"),
        ("POST", "/jobs/x", "GET, HEAD, DELETE"),
        ("DELETE", "/v1/jobs/x/cancel", "POST"),
        ("POST", "/v1/healthz", "GET, HEAD"),
    ],
)
def test_an_unsupported_method_is_refused_with_the_supported_ones(
    client: httpx.Client, method: str, path: str, allow: str
) -> None:
    answer = client.request(method, path)
    problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == allow


@pytest.mark.parametrize("path", ["/healthz", "/models", "/jobs", "/jobs/x", "/nothing", "/openapi.json"])
def test_every_response_has_the_security_headers(client: httpx.Client, path: str) -> None:
    headers = client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["cache-control"] == "no-store"


def test_responses_with_an_etag_are_stored_only_without_keys(
    client: httpx.Client, run_api: Callable[[Settings], RunningApi], settings: Settings
) -> None:
    assert client.get(client.post("/generate").headers["location"]).headers["cache-control"] == "private, no-cache"
    with client_of(run_api(with_keys(settings)), "alice") as alice:
        answer = alice.get(alice.post("/generate").headers["location"])
        assert answer.headers["cache-control"] == "private, no-store"
        assert answer.headers["etag"]


def test_the_description_lists_security_and_error_responses(settings: Settings) -> None:
    paths = create_app(with_keys(settings)).openapi()["paths"]
    operations = {(method, path): each for path, methods in paths.items() for method, each in methods.items()}
    for (_, path), operation in operations.items():
        is_open = path in ("/healthz", "/readyz") or path.startswith("/study/{token}/")
        assert ("security" in operation) != is_open, path
        assert {"401", "429"} <= set(operation["responses"]) or "security" not in operation
    for path in ("/generate", "/v2a", "/a2v", "/edit"):
        answers = set(operations["post", path]["responses"])
        assert {"200", "202", "400", "401", "403", "409", "410", "413", "415", "422", "429", "503"} <= answers
    assert "507" in operations["post", "/v2a"]["responses"]
    assert "507" in operations["post", "/a2v"]["responses"]
    assert "security" not in create_app(settings).openapi()["paths"]["/generate"]["post"]


@pytest.mark.parametrize("path", ["/healthz", "/models", "/v1/models"])
def test_head_returns_the_headers_of_get(client: httpx.Client, path: str) -> None:
    head, whole = client.head(path), client.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == whole.headers["content-length"]


def test_an_internal_error_reveals_no_details(settings: Settings) -> None:
    app = create_app(settings)
    router = APIRouter()

    @router.get("/broken")
    def broken() -> None:
        raise RuntimeError("the password is swordfish")

    app.include_router(router)
    api = RunningApi(app)
    api.start()
    try:
        answer = httpx.get(f"{api.url}/broken", trust_env=False)
    finally:
        api.stop()
    problem(answer, 500, "internal_error")
    assert "swordfish" not in answer.text
    assert "Traceback" not in answer.text


def test_models_are_listed_with_their_capabilities(client: httpx.Client) -> None:
    (demo,) = client.get("/models").json()["data"]
    assert (demo["name"], demo["default"]) == ("demo", True)
    assert demo["clip"] == {**asdict(demo_model.CLIP), "duration": demo_model.CLIP.duration}
    sizes = [(size["width"], size["height"]) for size in demo["resolutions"]]
    assert sizes == [demo_model.SMALL, demo_model.LARGE]
    assert (demo["trained"], demo["independent_timesteps"]) == (True, True)
    assert {"ddim", "dpmpp_2m"} <= set(demo["samplers"])
    assert {"clean", "pigdm", "replacement"} <= set(demo["guidance"]["v2a"])
    assert re.fullmatch("[0-9a-f]{64}", demo["weights_hash"])
    assert demo["licence"]


def test_the_description_covers_every_route_with_its_limits(client: httpx.Client) -> None:
    description = client.get("/openapi.json").json()
    assert set(description["paths"]) == {
        "/generate",
        "/v2a",
        "/a2v",
        "/edit",
        "/jobs",
        "/jobs/{job_id}",
        "/jobs/{job_id}/cancel",
        "/jobs/{job_id}/events",
        "/jobs/{job_id}/retry",
        "/jobs/{job_id}/files/{name}",
        "/models",
        "/models/reload",
        "/study/{token}/session",
        "/study/{token}/votes/{clip}",
        "/study/{token}/submit",
        "/study/{token}/clips/{clip}.mp4",
        "/verify",
        "/videos",
        "/videos/sync",
        "/videos/{video_id}",
        "/videos/{video_id}/content",
        "/healthz",
        "/readyz",
        "/metrics",
    }
    body = description["paths"]["/generate"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    outputs = body["properties"]["num_outputs"]
    assert (outputs["minimum"], outputs["maximum"]) == (1, 8)
    number, absent = body["properties"]["steps"]["anyOf"]
    assert (number["minimum"], number["maximum"], absent["type"]) == (1, 1000, "null")
    form = description["paths"]["/v2a"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["required"] == ["file"]
    assert "super_resolution" not in form["properties"]
    assert "Problem" in description["components"]["schemas"]
    for reference in re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(description)):
        assert reference in description["components"]["schemas"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"default_model": "none"}, "DUET_DEFAULT_MODEL is 'none'; the models here are: demo"),
        ({"models": "models"}, "model.json"),
    ],
)
def test_invalid_models_stop_the_process_with_a_message(
    settings: Settings, tmp_path: Path, changes: dict[str, str], sentence: str
) -> None:
    (tmp_path / "models" / "broken").mkdir(parents=True)
    (tmp_path / "models" / "broken" / "model.json").write_text("{")
    update = {name: tmp_path / value if name == "models" else value for name, value in changes.items()}
    with pytest.raises(SystemExit) as end:
        create_app(settings.model_copy(update=update))
    assert sentence in str(end.value)


def test_the_service_needs_no_torch() -> None:
    """So that it starts within a second and needs little memory; only workers use torch."""
    code = "import service.app, sys; print([name for name in ('torch', 'av', 'workers') if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_every_request_is_one_line_in_the_log_with_its_id(
    run_api: Callable[[Settings], RunningApi], settings: Settings, log_format: str
) -> None:
    code = (
        "import asyncio, httpx\n"
        "from service.app import create_app\n"
        "async def main():\n"
        "    app = create_app()\n"
        "    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url='http://localhost') as client:\n"
        "        await client.get('/nothing', headers={'X-Request-ID': 'mine-7'})\n"
        "asyncio.run(main())\n"
    )
    environment = {"DUET_LOG_FORMAT": log_format, "DUET_DATA": str(settings.data), "PATH": ""}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    (line,) = [line for line in run.stderr.splitlines() if "mine-7" in line]
    assert run.stdout == ""
    if log_format == "json":
        entry = json.loads(line)
        assert (entry["event"], entry["path"], entry["status"], entry["level"]) == ("request", "/nothing", 404, "info")
        assert entry["request_id"] == "mine-7"
