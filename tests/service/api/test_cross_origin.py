"""Requests from web pages of other origins, as browsers send them."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from service.jobs.store import JobStore
from service.settings import Settings
from tests.conftest import RunningApi
from tests.service.answers import problem
from tests.service.completed import completed
from tests.service.keys import client_of, with_keys
from tests.service.streams import Stream

APP = "https://app.example"
PAGE = {"Origin": APP, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}
PREFLIGHT = {
    "Origin": APP,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,idempotency-key,last-event-id,prefer",
}


@pytest.fixture
def start(run_api: Callable[[Settings], RunningApi], settings: Settings) -> Callable[..., httpx.Client]:
    """Starts an API that allows these origins; returns a client without a key, or with alice's."""

    def start(origins: str, key: str | None = None) -> httpx.Client:
        changes = {"cors_origins": origins}
        chosen = with_keys(settings, **changes) if key else settings.model_copy(update=changes)
        return client_of(run_api(chosen), key)

    return start


def test_by_default_no_other_origin_is_allowed(client: httpx.Client) -> None:
    problem(client.options("/generate", headers=PREFLIGHT), 405, "method_not_allowed")
    for answer in (client.get("/models", headers=PAGE), client.post("/generate", headers=PAGE)):
        assert "access-control-allow-origin" not in answer.headers
    detail = problem(client.post("/generate", headers=PAGE), 403, "cross_site")["detail"]
    assert APP in detail
    assert "DUET_CORS_ORIGINS" in detail


@pytest.mark.parametrize("origins", ["https://other.example HTTPS://App.example:443", "*"])
def test_an_allowed_origin_can_use_the_api(start: Callable[..., httpx.Client], origins: str) -> None:
    client = start(origins, "alice")
    del client.headers["Authorization"]
    preflight = client.options("/generate", headers=PREFLIGHT | {"Access-Control-Request-Private-Network": "true"})
    assert preflight.status_code == 200
    allowed = "*" if origins == "*" else APP
    assert preflight.headers["access-control-allow-origin"] == allowed
    assert preflight.headers["access-control-allow-private-network"] == "true"
    assert "access-control-allow-credentials" not in preflight.headers
    assert {"GET", "POST", "DELETE"} <= set(preflight.headers["access-control-allow-methods"].split(", "))
    asked = PREFLIGHT["Access-Control-Request-Headers"].split(",")
    assert set(asked) <= set(preflight.headers["access-control-allow-headers"].lower().split(", "))
    assert preflight.headers["x-request-id"]

    refused = client.post("/generate", headers=PAGE)
    problem(refused, 401, "unauthorized")
    assert refused.headers["access-control-allow-origin"] == allowed, "the page can read the error"
    key = start(origins, "alice").headers["Authorization"]
    made = client.post("/generate", headers=PAGE | {"Authorization": key})
    assert made.status_code == 202
    exposed = set(made.headers["access-control-expose-headers"].split(", "))
    assert {"Location", "ETag", "Retry-After", "X-Request-ID", "Content-Range", "Idempotency-Replayed"} <= exposed
    assert (allowed == "*") or "Origin" in made.headers["vary"]


def test_without_keys_an_allowed_origin_can_submit_and_others_cannot(start: Callable[..., httpx.Client]) -> None:
    client = start(APP)
    job = client.post("/generate", headers=PAGE)
    assert job.status_code == 202
    with Stream(client, job.headers["location"]) as events:
        assert events.next("status").data["id"] == job.json()["id"]
    assert client.delete(job.headers["location"], headers=PAGE).status_code == 204
    for origin in ("https://evil.example", "http://app.example", f"{APP}.evil.example", "null", f"{APP}:8443"):
        other = PAGE | {"Origin": origin}
        answer = client.post("/generate", headers=other)
        problem(answer, 403, "cross_site")
        assert "access-control-allow-origin" not in answer.headers
        assert "access-control-allow-origin" not in client.options("/generate", headers=PREFLIGHT | other).headers
        assert "access-control-allow-origin" not in client.get("/jobs", headers=other).headers


def test_errors_outside_the_routes_can_be_read_too(start: Callable[..., httpx.Client]) -> None:
    client = start(APP)
    unknown = client.get("/jobs", headers=PAGE | {"Host": "evil.example"})
    problem(unknown, 421, "unknown_host")
    assert unknown.headers["access-control-allow-origin"] == APP
    missing = client.get("/nothing", headers=PAGE)
    assert (missing.status_code, missing.headers["access-control-allow-origin"]) == (404, APP)


def test_only_media_by_signed_url_can_be_embedded_elsewhere(
    start: Callable[..., httpx.Client], store: JobStore, settings: Settings
) -> None:
    alice = start(APP, "alice")
    job = completed(alice, store, settings)
    video = job["outputs"][0]["files"]["video.mp4"]
    stranger = httpx.Client(base_url=alice.base_url, trust_env=False)
    for headers in ({}, {"Range": "bytes=1-3"}, {"If-None-Match": stranger.head(video).headers["etag"]}):
        answer = stranger.get(video, headers=headers | {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"})
        assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
    part = stranger.get(video, headers=PAGE | {"Range": "bytes=1-3"})
    assert (part.status_code, part.headers["content-range"]) == (206, "bytes 1-3/7")
    assert part.headers["access-control-allow-origin"] == APP
    assert "Content-Range" in part.headers["access-control-expose-headers"]

    plain = video.partition("?")[0]
    for answer in (alice.get(plain), alice.get(job["urls"]["self"]), stranger.get(plain), stranger.get("/")):
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert stranger.get(f"{video}0").headers["cross-origin-resource-policy"] == "same-origin"
