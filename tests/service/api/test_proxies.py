"""The API behind a reverse proxy, at a path prefix: real nginx in front, as docs/access.md configures it."""

from __future__ import annotations

import json
import logging
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest

from duet import Duet
from service.app import create_app
from service.jobs.store import JobStore
from service.setting_types import OWN_PATHS, path_prefix
from service.settings import Settings, load_settings
from service.webhooks.signing import message
from tests.conftest import RunningApi
from tests.nginx import Nginx
from tests.service import media
from tests.service.answers import problem
from tests.service.api.test_studio import linked
from tests.service.completed import completed
from tests.service.keys import KEYS, with_keys
from tests.service.new_jobs import a_job
from tests.service.streams import Stream
from tests.waiting import until

DOCUMENTED = re.findall(
    r"^```nginx\n(.*?)^```", Path("docs/access.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
)[0]

Published = Callable[..., httpx.Client]


@dataclass(frozen=True)
class Way:
    """A configuration of nginx, and the settings that go with it."""

    locations: str
    settings: dict[str, str]


WAYS = {
    "documented": Way(DOCUMENTED, {"trusted_proxies": "127.0.0.1"}),
    "stripped": Way("location /duet/ { proxy_pass http://127.0.0.1:8000/; }", {"root_path": "/duet"}),
    "kept": Way("location /duet/ { proxy_pass http://127.0.0.1:8000; }", {"root_path": "/duet"}),
}


@pytest.fixture(params=WAYS)
def publish(
    request: pytest.FixtureRequest, run_api: Callable[[Settings], RunningApi], tmp_path: Path
) -> Iterator[Published]:
    """Publishes the API of given settings at /duet; returns a client of nginx."""
    way = WAYS[request.param]
    nginx: list[Nginx] = []

    def start(settings: Settings, key: str | None = None) -> httpx.Client:
        api = run_api(settings.model_copy(update=way.settings))
        nginx.append(Nginx(tmp_path / "nginx", way.locations.replace("127.0.0.1:8000", f"127.0.0.1:{api.port}")))
        headers = {"Authorization": f"Bearer {KEYS[key]}"} if key else {}
        return httpx.Client(base_url=nginx[0].url, headers=headers, timeout=30, trust_env=False)

    yield start
    for each in nginx:
        each.stop()


class Prefixed:
    """A client that reaches the paths of the API at /duet. It shows what a client gets that knows no prefix."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        return lambda path, **named: method(path if path.startswith("/duet") else f"/duet{path}", **named)


def test_every_path_in_a_response_carries_the_prefix(publish: Published, settings: Settings, store: JobStore) -> None:
    keyed = with_keys(settings)
    with publish(keyed, "alice") as client, httpx.Client(base_url=client.base_url, trust_env=False) as stranger:
        answer = client.post("/duet/generate", json={"seed": 1}, headers={"Prefer": "wait=0"})
        assert answer.status_code == 202
        assert answer.headers["location"] == answer.json()["urls"]["self"] == f"/duet/jobs/{answer.json()['id']}"

        job = completed(Prefixed(client), store, keyed)  # type: ignore[arg-type]
        files = [*job["outputs"][0]["files"].values(), job["urls"]["input"]]
        assert all(url.startswith("/duet/jobs/") for url in [*job["urls"].values(), *files])
        for url in files:
            part = stranger.get(url, headers={"Range": "bytes=0-2"})
            assert (part.status_code, len(part.content)) == (206, 3)
        assert client.get(job["urls"]["self"]).json() == job
        assert client.get("/duet/jobs").json()["data"][0] == job
        with Stream(client, job["urls"]["self"]) as events:
            assert events.next("completed").data == job
        again = client.post(job["urls"]["retry"])
        assert again.headers["location"].startswith("/duet/jobs/")

        under_v1 = client.get(f"/duet/v1/jobs/{job['id']}").json()
        assert under_v1["urls"]["self"] == f"/duet/v1/jobs/{job['id']}"
        assert stranger.get(under_v1["urls"]["input"]).status_code == 200
        body = problem(client.get("/duet/jobs/none"), 404, "unknown_job")
        assert body["instance"] == "/duet/jobs/none"


def test_the_client_works_under_the_prefix(
    publish: Published, settings: Settings, store: JobStore, tmp_path: Path
) -> None:
    keyed = with_keys(settings)
    with publish(keyed, "alice") as client, Duet(f"{client.base_url}/duet", KEYS["alice"]) as duet:
        assert duet.generate(seed=1).status == "queued"
        job = completed(Prefixed(client), store, keyed)  # type: ignore[arg-type]
        saved = duet.job(job["id"]).save(tmp_path / "clip.mp4")
        assert saved.read_bytes() == b"a video"


def test_the_pages_work_under_the_prefix(publish: Published, settings: Settings) -> None:
    with publish(settings) as client:
        assert client.get("/duet", follow_redirects=True).url.path == "/duet/"
        for page in ("/duet/", "/duet/docs"):
            text = client.get(page).raise_for_status().text
            links = linked(text)
            assert len(links) > 3
            for link in links:
                assert client.get(urljoin(page, link)).status_code == 200, link
        described = client.get("/duet/openapi.json").json()
        assert described["servers"] == [{"url": "/duet"}]
        assert "/generate" in described["paths"]


def test_a_page_of_the_proxy_s_origin_may_submit(publish: Published, settings: Settings) -> None:
    with publish(settings) as client:
        origin = str(client.base_url).rstrip("/")
        own = {"Origin": origin, "Sec-Fetch-Site": "same-origin"}
        assert client.post("/duet/generate", headers=own).status_code == 202
        other = {"Origin": "https://elsewhere.example", "Sec-Fetch-Site": "cross-site"}
        assert "DUET_CORS_ORIGINS" in problem(client.post("/duet/generate", headers=other), 403, "cross_site")["detail"]
        without = {"Origin": "https://elsewhere.example"}
        problem(client.post("/duet/generate", headers=without), 403, "cross_site")


def test_the_api_itself_answers_without_the_prefix(
    run_api: Callable[[Settings], RunningApi], settings: Settings
) -> None:
    """As health checks ask it."""
    api = run_api(settings.model_copy(update={"root_path": "/duet"}))
    for path in ("/healthz", "/duet/healthz", "/v1/healthz", "/duet/v1/healthz"):
        assert httpx.get(f"{api.url}{path}", trust_env=False).status_code == 200
    redirect = httpx.get(f"{api.url}/duet", trust_env=False)
    assert (redirect.status_code, redirect.headers["location"]) == (308, "/duet/")
    assert redirect.headers["x-request-id"]
    linked_job = httpx.get(f"{api.url}/duet?job=job_1&x=%2F%0d", trust_env=False)
    assert linked_job.headers["location"] == "/duet/?job=job_1&x=%2F%0d"
    assert httpx.get(f"{api.url}/duetto/healthz", trust_env=False).status_code == 404


FORGED = {
    "X-Forwarded-For": "203.0.113.9",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Prefix": "/evil",
}


def logged_client(caplog: pytest.LogCaptureFixture, path: str) -> str:
    """The client's address in the log line of the request for `path`, which follows the response."""

    def found() -> str | None:
        lines = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
        return next((line["client"] for line in lines if line["event"] == "request" and line["path"] == path), None)

    return until(found, f"the request for {path} is logged")


@pytest.mark.parametrize("trusted", ["", "10.0.0.0/8, 192.0.2.1, ::1"])
def test_forwarded_headers_of_others_change_nothing(
    run_api: Callable[[Settings], RunningApi], settings: Settings, trusted: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    api = run_api(settings.model_copy(update={"trusted_proxies": trusted}))
    with httpx.Client(base_url=api.url, headers=FORGED, trust_env=False) as client:
        assert client.post("/generate").headers["location"].startswith("/jobs/")
        assert "servers" not in client.get("/openapi.json").json()
        assert client.post("/generate", headers={"Origin": api.url}).status_code == 202
        problem(client.post("/generate", headers={"Origin": "https://evil.example"}), 403, "cross_site")
        problem(
            client.get("/jobs", headers={"Host": "evil.example", "X-Forwarded-Host": "localhost"}), 421, "unknown_host"
        )
    assert logged_client(caplog, "/openapi.json") == "127.0.0.1"


@pytest.fixture
def trusting(run_api: Callable[[Settings], RunningApi], settings: Settings) -> httpx.Client:
    """A client that is a trusted proxy."""
    changes = {"trusted_proxies": "127.0.0.0/8", "public_url": "https://duet.example", "max_connections_per_address": 3}
    api = run_api(settings.model_copy(update=changes))
    return httpx.Client(base_url=api.url, trust_env=False)


def test_forwarded_headers_of_a_trusted_proxy_count(trusting: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    headers = FORGED | {"X-Forwarded-Host": "duet.example", "X-Forwarded-Prefix": "/a/b-c_d.e~f/"}
    headers["X-Forwarded-For"] = "198.51.100.7, 203.0.113.9, 127.0.0.2"
    answer = trusting.post("/generate", headers=headers | {"Origin": "https://duet.example"})
    assert answer.headers["location"].startswith("/a/b-c_d.e~f/jobs/")
    assert logged_client(caplog, "/a/b-c_d.e~f/generate") == "203.0.113.9", "the last address that is not a proxy's own"


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("203.0.113.9:4711", "203.0.113.9"),
        ("2001:db8::7", "2001:db8::7"),
        ("[2001:db8::7]:4711", "2001:db8::7"),
        ("198.51.100.7, 2001:db8::7, 127.0.0.2", "2001:db8::7"),
        *((garbage, "127.0.0.1") for garbage in ("garbage", "unknown", "_hidden", "203.0.113.9:port", "203.0.113.256")),
        *((garbage, "127.0.0.1") for garbage in ("[2001:db8::7", "fe80::1%x", "203.0.113.9:99999", "198.51.100.7, ?")),
    ],
)
def test_only_an_address_becomes_the_client_s(
    trusting: httpx.Client, forwarded: str, client: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert trusting.get("/openapi.json", headers={"X-Forwarded-For": forwarded}).status_code == 200
    assert logged_client(caplog, "/openapi.json") == client


@pytest.mark.parametrize(
    "prefix",
    [
        *("//evil.example", "evil", "/../x", "/a/../b", "/.", "/a//b", "/a?b", "/a#b", "/%2f", "/a b", "/a,/b", "/ü"),
        *("/jobs/x", "/" + "a" * 65, "/a" * 17, "https://evil.example/", "\\\\evil", "/\\evil", "/<script>"),
    ],
)
def test_a_bad_prefix_is_ignored(trusting: httpx.Client, prefix: str) -> None:
    answer = trusting.post("/generate", headers={"X-Forwarded-Prefix": prefix.encode()})  # type: ignore[dict-item]
    assert (answer.status_code, answer.headers["location"]) == (202, answer.json()["urls"]["self"])
    assert re.fullmatch(r"/jobs/job_\w+", answer.headers["location"])
    assert path_prefix(prefix) is None


def test_a_prefix_that_comes_twice_is_ignored(trusting: httpx.Client) -> None:
    twice = [("X-Forwarded-Prefix", "/a"), ("X-Forwarded-Prefix", "/b")]
    assert trusting.post("/generate", headers=twice).headers["location"].startswith("/jobs/")


@pytest.mark.parametrize(
    "host", ["evil.example", "a b", "localhost, evil.example", "", "localhost:port", "x@localhost"]
)
def test_a_bad_forwarded_host_is_refused_or_ignored(trusting: httpx.Client, host: str) -> None:
    """Neither makes another origin the API's own."""
    for origin in ("https://evil.example", f"https://{host}"):
        answer = trusting.post("/generate", headers={"X-Forwarded-Host": host, "Origin": origin})
        assert answer.status_code in (403, 421), answer.text
    rebound = trusting.get("/jobs", headers={"Host": "evil.example", "X-Forwarded-Host": "localhost"})
    problem(rebound, 421, "unknown_host")


@pytest.mark.parametrize("line", [b"Host: localhost\rX: y", b"Host: local\x00host", b"Host: a\r\nHost: localhost"])
def test_a_malformed_host_is_refused(trusting: httpx.Client, line: bytes) -> None:
    with socket.create_connection((trusting.base_url.host, trusting.base_url.port), timeout=10) as client:
        client.sendall(b"GET /jobs HTTP/1.1\r\n" + line + b"\r\nConnection: close\r\n\r\n")
        assert re.match(rb"HTTP/1.1 (400|421) ", client.recv(1000))


def test_connections_of_a_trusted_proxy_are_not_limited(trusting: httpx.Client) -> None:
    address = (trusting.base_url.host, trusting.base_url.port)
    connections = [socket.create_connection(address, timeout=10) for _ in range(10)]
    assert trusting.get("/healthz").status_code == 200
    for each in connections:
        each.close()


LINKS = {
    ("", ""): "/jobs/",
    ("", "/duet"): "/duet/jobs/",
    ("https://duet.example", ""): "https://duet.example/jobs/",
    ("https://duet.example", "/duet"): "https://duet.example/duet/jobs/",
    ("https://duet.example/duet/", "/duet"): "https://duet.example/duet/jobs/",
    ("https://duet.example/elsewhere", "/duet"): "https://duet.example/elsewhere/jobs/",
}


@pytest.mark.parametrize(("public_url", "root_path"), LINKS)
def test_links_in_webhooks_carry_the_prefix(public_url: str, root_path: str) -> None:
    link = LINKS[public_url, root_path]
    settings = load_settings(public_url=public_url, root_path=root_path)
    urls = json.loads(message(a_job(), settings.link_prefix))["data"]["urls"]
    assert all(url.startswith(link) for url in urls.values())


def test_no_prefix_can_be_taken_for_a_path_of_the_api(settings: Settings) -> None:
    app = create_app(settings)
    paths = {path for route in app.routes if (path := getattr(route, "path", None))} | set(app.openapi()["paths"])
    assert {path.split("/")[1] for path in paths} - {""} <= OWN_PATHS


def test_an_upload_passes_through(publish: Published, settings: Settings) -> None:
    with publish(settings) as client:
        answer = client.post("/duet/v2a", files={"file": ("a.mp4", media.video())})
        assert answer.status_code == 202, answer.text
        problem(client.post("/duet/v2a", files={"file": ("a.mp4", b"")}), 422, "empty_file")
