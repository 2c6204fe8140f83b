"""Limits on requests and queued jobs, per key and in all."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from service.jobs.connection import connect
from service.jobs.rate_limit import RateLimit
from service.jobs.store import JobStore
from service.settings import Settings
from tests.conftest import RunningApi
from tests.service import media
from tests.service.answers import problem
from tests.service.keys import client_of, with_keys
from tests.waiting import until

RunApi = Callable[[Settings], RunningApi]


def test_each_key_has_its_own_request_rate(run_api: RunApi, settings: Settings) -> None:
    api = run_api(with_keys(settings, max_requests_per_minute=5))
    with client_of(api, "alice") as alice, client_of(api, "bob") as bob:
        for _ in range(5):
            assert alice.get("/jobs").status_code == 200
        answer = alice.get("/jobs")
        problem(answer, 429, "rate_limited")
        assert 1 <= int(answer.headers["retry-after"]) <= 12
        assert bob.get("/jobs").status_code == 200
        assert alice.get("/healthz").status_code == 200


def test_an_unknown_key_does_not_count_against_others(run_api: RunApi, settings: Settings) -> None:
    api = run_api(with_keys(settings, max_requests_per_minute=1))
    with client_of(api, "alice") as alice, client_of(api, None) as stranger:
        for _ in range(3):
            assert stranger.get("/jobs", headers={"Authorization": "Bearer x"}).status_code == 401
        assert alice.get("/jobs").status_code == 200


def test_the_request_rate_recovers_evenly(settings: Settings) -> None:
    """At 600 requests a minute, one every tenth of a second."""
    limit = RateLimit(connect(settings), per_minute=600)
    assert [limit.take("alice") for _ in range(600)] == [0] * 600
    waits = [limit.take("alice") for _ in range(200)]
    assert set(waits) <= {0, 1}
    assert 1 in waits
    until(lambda: limit.take("alice") == 0, "another request is allowed")


def test_the_request_rate_is_shared_by_all_processes(settings: Settings) -> None:
    one, another = (RateLimit(connect(settings), per_minute=2) for _ in range(2))
    assert [one.take("alice"), another.take("alice")] == [0, 0]
    assert one.take("alice") > 0
    assert another.take("alice") > 0


@pytest.mark.parametrize("route", ["/generate", "/v2a", "/a2v"])
def test_a_key_has_a_limit_of_queued_jobs(run_api: RunApi, settings: Settings, store: JobStore, route: str) -> None:
    api = run_api(with_keys(settings, max_queued_per_key=2))
    upload = {"/v2a": media.video, "/a2v": media.sound}.get(route)
    files = {"file": ("a", upload())} if upload else None
    with client_of(api, "alice") as alice, client_of(api, "bob") as bob:
        first = alice.post(route, files=files).json()
        assert alice.post(route, files=files).status_code == 202
        answer = alice.post(route, files=files)
        problem(answer, 429, "too_many_queued")
        assert int(answer.headers["retry-after"]) > 0
        problem(alice.post(first["urls"]["retry"]), 429, "too_many_queued")
        assert bob.post(route, files=files).status_code == 202
        store.claim(first["id"], "a worker")
        store.start(first["id"], 1)
        assert alice.post(route, files=files).status_code == 202, "a running job is not queued any more"


def test_a_full_queue_refuses_every_key(run_api: RunApi, settings: Settings, store: JobStore) -> None:
    api = run_api(settings.model_copy(update={"max_queued": 2}))
    with client_of(api, None) as client:
        jobs = [client.post("/generate").json() for _ in range(2)]
        for route, files in (("/generate", None), ("/v2a", {"file": ("a.mp4", media.video())})):
            answer = client.post(route, files=files)
            problem(answer, 503, "queue_full")
            assert int(answer.headers["retry-after"]) > 0
        assert len(store.page()[0]) == 2
        client.post(jobs[0]["urls"]["cancel"])
        assert client.post("/generate").status_code == 202


def test_a_full_queue_still_replays_idempotent_requests(run_api: RunApi, settings: Settings) -> None:
    api = run_api(settings.model_copy(update={"max_queued": 1}))
    with client_of(api, None) as client:
        headers = {"Idempotency-Key": "key"}
        first = client.post("/generate", headers=headers)
        again = client.post("/generate", headers=headers)
        assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])


def test_a_full_queue_refuses_an_upload_before_it_is_read(run_api: RunApi, settings: Settings) -> None:
    api = run_api(settings.model_copy(update={"max_queued": 1}))
    httpx.post(f"{api.url}/generate", trust_env=False)
    form = {"Content-Type": "multipart/form-data; boundary=XX"}
    answer = httpx.post(f"{api.url}/v2a", content=b"this is not even a form", headers=form, trust_env=False)
    problem(answer, 503, "queue_full")
