"""Access to every route: without a key, with an unknown key, with another user's and with the owner's."""

from __future__ import annotations

import hashlib
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import pytest
from pydantic import SecretStr

from service.api.auth import KEY_PREFIX, find_key, new_key
from service.jobs.store import JobStore
from service.settings import Settings, load_settings
from tests.conftest import RunningApi
from tests.service import media
from tests.service.answers import problem
from tests.service.completed import completed
from tests.service.keys import KEYS, client_of, with_keys

OPEN = ("/healthz", "/readyz", "/openapi.json")
ADMIN_ONLY = ("/models/reload",)
"""Routes for the keys of DUET_ADMIN_KEYS, which names alice."""

BY_TOKEN = "/study/{token}/"
"""Beginning of the routes whose token is the authority; tests/service/api/test_study.py has their matrix."""


@pytest.fixture
def keyed(settings: Settings) -> Settings:
    return with_keys(settings, max_sync_s=0.0, admin_keys="alice")


@pytest.fixture
def api(run_api: Callable[[Settings], RunningApi], keyed: Settings) -> RunningApi:
    return run_api(keyed)


@pytest.fixture
def alice(api: RunningApi) -> Iterator[httpx.Client]:
    with client_of(api, "alice") as client:
        yield client


@pytest.fixture
def bob(api: RunningApi) -> Iterator[httpx.Client]:
    with client_of(api, "bob") as client:
        yield client


@pytest.fixture
def stranger(api: RunningApi) -> Iterator[httpx.Client]:
    with client_of(api, None) as client:
        yield client


def requests_of(method: str, path: str, job_id: str) -> dict[str, Any]:
    """A request to this route that succeeds for the owner of the job."""
    path = path.replace("{job_id}", job_id).replace("{name}", "input.mp4")
    path = path.replace("{video_id}", job_id.replace("job_", "video_"))
    uploads = {"/v2a": media.video, "/a2v": media.sound, "/edit": media.video, "/verify": media.video}
    upload = uploads.get(path.removeprefix("/v1"))
    data = {"extend": '{"after": 1}'} if path.endswith("/edit") else None
    return {"method": method, "url": path, "files": {"file": ("a", upload())} if upload else None, "data": data}


def routes(client: httpx.Client) -> list[tuple[str, str]]:
    """All routes of the description, with and without `/v1`; those that end a job come last."""
    described = client.get("/openapi.json").json()["paths"]
    plain = [(method.upper(), path) for path, operations in described.items() for method in operations]
    heads = [("HEAD", path) for method, path in plain if method == "GET"]
    both = [(method, prefix + path) for prefix in ("", "/v1") for method, path in plain + heads]
    return sorted(both, key=lambda route: (route[0] == "DELETE", route[1].endswith("/cancel")))


def sentence(answer: httpx.Response) -> str:
    """What an error says to people."""
    said: dict[str, Any] = answer.json()
    return str(said["error"]["message"] if "error" in said else said["detail"])


def test_every_route_authenticates_and_shows_a_key_its_own_jobs_only(
    alice: httpx.Client, bob: httpx.Client, stranger: httpx.Client, store: JobStore, keyed: Settings
) -> None:
    checked = 0
    for method, path in routes(stranger):
        if path.removeprefix("/v1").startswith(BY_TOKEN):
            for sender in (stranger, alice):  # a key does not stand in for the token
                assert sender.request(method, path.replace("{token}", "x" * 43)).status_code == 404, path
            continue
        if path.removeprefix("/v1") in OPEN:
            assert stranger.request(method, path).status_code in (200, 503)
            continue
        job_id = ""
        if path.endswith("/content"):
            job_id = completed(alice, store, keyed)["id"]
        elif "{job_id}" in path or "{video_id}" in path:
            job_id = alice.post("/v2a", files={"file": ("a.mp4", media.video())}).json()["id"]
        if path.endswith("/events"):  # the stream of a queued job would not end
            alice.post(f"/jobs/{job_id}/cancel")
        request = requests_of(method, path, job_id)

        without = stranger.request(**request)
        assert (without.status_code, without.headers["www-authenticate"]) == (401, 'Bearer realm="duet"'), request
        for wrong in ("Bearer duet_wrong", "Bearer", "Basic YTpi", KEYS["alice"], f"Bearer {KEYS['alice']}x"):
            assert stranger.request(**request, headers={"Authorization": wrong}).status_code == 401, request
        digest = hashlib.sha256(KEYS["alice"].encode()).hexdigest()
        assert stranger.request(**request, headers={"Authorization": f"Bearer {digest}"}).status_code == 401

        others = bob.request(**request)
        own = alice.request(**request)
        if "{job_id}" in path or "{video_id}" in path:
            assert others.status_code == 404, request
            if method != "HEAD":
                nothing = "0" * 26
                unknown = bob.request(**requests_of(method, path, f"job_{nothing}"))
                assert unknown.status_code == 404, "another key's job looks like an unknown one"
                assert sentence(others).replace(job_id.removeprefix("job_"), nothing) == sentence(unknown)
        elif path.endswith("/sync"):  # the job waits longer than the API does
            assert (others.status_code, own.status_code) == (504, 504), request
            continue
        elif path.removeprefix("/v1") in ADMIN_ONLY:
            assert others.status_code == 403, request
        else:
            assert others.status_code in (200, 202), request
        assert own.status_code in (200, 202, 204), (request, own.text)
        checked += 1
    assert checked >= 2 * 13


def test_without_a_key_an_upload_is_refused_before_it_is_sent(api: RunningApi) -> None:
    """The client waits for `100 Continue`, as curl does."""
    with socket.create_connection(("127.0.0.1", api.port)) as client:
        client.sendall(
            b"POST /v2a HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=XX\r\n"
            b"Content-Length: 99999\r\nExpect: 100-continue\r\n\r\n"
        )
        assert client.recv(1000).startswith(b"HTTP/1.1 401 ")


def test_lists_show_the_callers_jobs_only(alice: httpx.Client, bob: httpx.Client) -> None:
    mine = alice.post("/generate").json()["id"]
    assert [job["id"] for job in alice.get("/jobs").json()["data"]] == [mine]
    assert bob.get("/jobs").json() == {"data": [], "has_more": False, "next": None}
    assert bob.get("/jobs", params={"after": mine}).json()["data"] == []


def test_an_idempotency_key_belongs_to_its_api_key(alice: httpx.Client, bob: httpx.Client) -> None:
    headers = {"Idempotency-Key": "the-same"}
    first = alice.post("/generate", json={"seed": 1}, headers=headers)
    others = bob.post("/generate", json={"seed": 2}, headers=headers)
    assert (first.status_code, others.status_code) == (202, 202)
    assert first.json()["id"] != others.json()["id"]
    assert "idempotency-replayed" not in others.headers


def test_a_deleted_job_is_unknown_to_other_keys(alice: httpx.Client, bob: httpx.Client) -> None:
    url = alice.post("/generate").headers["location"]
    assert alice.delete(url).status_code == 204
    assert alice.delete(url).status_code == 204
    for method in ("GET", "DELETE"):
        assert bob.request(method, url).status_code == 404


def test_no_key_owns_jobs_created_without_keys(
    client: httpx.Client, run_api: Callable[[Settings], RunningApi], keyed: Settings
) -> None:
    url = client.post("/generate").headers["location"]
    with client_of(run_api(keyed), "alice") as alice:
        assert alice.get(url).status_code == 404
        assert alice.get("/jobs").json()["data"] == []


def test_a_page_can_show_media_by_signed_urls(
    alice: httpx.Client, stranger: httpx.Client, store: JobStore, keyed: Settings
) -> None:
    job = completed(alice, store, keyed)
    for url in (job["outputs"][0]["files"]["video.mp4"], job["urls"]["input"]):
        part = stranger.get(url, headers={"Range": "bytes=0-2"})
        assert (part.status_code, len(part.content)) == (206, 3)
        assert stranger.head(url).status_code == 200
        assert stranger.get(f"/v1{url}").status_code == 200
        assert part.headers["cache-control"] == "private, no-store"
    again = alice.get(f"/jobs/{job['id']}").json()
    assert again == job, "polling does not change the URLs, and so not the ETag"


@pytest.mark.parametrize(
    "changed",
    [{"signature": "00" * 32}, {"signature": "é"}, {"key": "bob"}, {"expires": "99999999999"}, {"expires": "x"}],
)
def test_a_signed_url_cannot_be_changed(
    alice: httpx.Client, stranger: httpx.Client, store: JobStore, keyed: Settings, changed: dict[str, str]
) -> None:
    parts = urlsplit(completed(alice, store, keyed)["outputs"][0]["files"]["video.mp4"])
    query = {**dict(parse_qsl(parts.query)), **changed}
    problem(stranger.get(f"{parts.path}?{urlencode(query)}"), 401, "unauthorized")


def test_a_signed_url_opens_that_file_only(
    alice: httpx.Client, stranger: httpx.Client, store: JobStore, keyed: Settings
) -> None:
    job = completed(alice, store, keyed)
    url = urlsplit(job["outputs"][0]["files"]["video.mp4"])
    for path in (f"/jobs/{job['id']}/files/input.mp4", f"/jobs/{job['id']}", "/jobs", "/models"):
        assert stranger.get(f"{path}?{url.query}").status_code == 401
    assert stranger.delete(f"/jobs/{job['id']}?{url.query}").status_code == 401


def test_a_signed_url_expires(
    alice: httpx.Client, stranger: httpx.Client, store: JobStore, keyed: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = completed(alice, store, keyed)["outputs"][0]["files"]["video.mp4"]
    expires = int(dict(parse_qsl(urlsplit(url).query))["expires"])
    assert 900 <= expires - time.time() <= 1800
    monkeypatch.setattr("service.api.auth.time.time", lambda: expires + 1)
    assert "expired" in problem(stranger.get(url), 401, "unauthorized")["detail"]


def test_a_signed_url_ends_with_the_key_that_asked_for_it(
    alice: httpx.Client,
    stranger: httpx.Client,
    store: JobStore,
    keyed: Settings,
    run_api: Callable[[Settings], RunningApi],
) -> None:
    """Also while another key of the same name stays valid."""
    url = completed(alice, store, keyed)["outputs"][0]["files"]["video.mp4"]
    new, new_hash = new_key()
    both = keyed.model_copy(update={"api_keys": SecretStr(f"{keyed.api_keys.get_secret_value()} alice:{new_hash}")})
    only_new = keyed.model_copy(update={"api_keys": SecretStr(f"alice:{new_hash}")})
    removed = keyed.model_copy(update={"api_keys": SecretStr(f"bob:{new_hash}")})

    during, after, without = (run_api(each) for each in (both, only_new, removed))
    assert stranger.get(url).status_code == 200
    assert httpx.get(f"{during.url}{url}").status_code == 200, "both keys are valid during a rotation"
    for api in (after, without):
        problem(httpx.get(f"{api.url}{url}"), 401, "unauthorized")
    job = httpx.get(f"{after.url}{urlsplit(url).path.split('/files')[0]}", headers={"Authorization": f"Bearer {new}"})
    own = job.json()["outputs"][0]["files"]["video.mp4"]
    assert httpx.get(f"{after.url}{own}").status_code == 200


def test_without_keys_urls_are_not_signed(client: httpx.Client) -> None:
    job = client.post("/v2a", files={"file": ("a.mp4", media.video())}).json()
    assert job["urls"]["input"] == f"/jobs/{job['id']}/files/input.mp4"


def test_a_name_may_have_two_keys_for_rotation() -> None:
    (old, old_hash), (new, new_hash) = new_key(), new_key()
    settings = load_settings(api_keys=f"alice:{old_hash}, alice:{new_hash}")
    assert old != new
    assert old.startswith(KEY_PREFIX)
    found = [find_key(settings, key) for key in (old, new, "duet_other", "", "\udcff")]
    assert [key and key.name for key in found] == ["alice", "alice", None, None, None]


def test_keys_are_never_logged(
    alice: httpx.Client, stranger: httpx.Client, store: JobStore, keyed: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    job = completed(alice, store, keyed)
    stranger.get("/jobs", headers={"Authorization": "Bearer duet_mistyped"})
    url = job["outputs"][0]["files"]["video.mp4"]
    assert stranger.get(url).status_code == 200
    logged = "\n".join(str(record.__dict__) for record in caplog.records if not record.name.startswith("http"))
    assert "alice" in logged
    digests = [hashlib.sha256(key.encode()).hexdigest() for key in KEYS.values()]
    for secret in (*KEYS.values(), *digests, "mistyped", dict(parse_qsl(urlsplit(url).query))["signature"]):
        assert secret not in logged


def test_the_setting_accepts_the_entry_that_the_command_prints() -> None:
    command = [sys.executable, "-m", "duet", "key", "alice"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    key, entry = out[-5], out[-1]
    found = find_key(load_settings(api_keys=entry), key)
    assert found is not None
    assert found.name == "alice"


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://elsewhere.example"}])
def test_without_keys_pages_of_other_sites_cannot_submit(client: httpx.Client, headers: dict[str, str]) -> None:
    file = {"file": ("a.mp4", media.video())}
    problem(client.post("/v2a", files=file, headers=headers), 403, "cross_site")
    own = {"Sec-Fetch-Site": "same-origin", "Origin": str(client.base_url)}
    assert client.post("/v2a", files=file, headers=own).status_code == 202
