"""The same request sent twice makes one job."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
import redis

from service.jobs import idempotency
from service.jobs.connection import connect
from service.jobs.idempotency import IdempotencyKeys, IdempotentRequest, KeyReused
from service.jobs.record import Timings
from service.jobs.store import JobStore
from service.settings import Settings
from tests.conftest import RedisServer, RunningApi
from tests.files import files_in
from tests.service import media
from tests.service.answers import problem
from tests.service.new_jobs import OUTPUT, a_job

KEY = {"Idempotency-Key": "a8098c1a-f86e"}
REQUEST = IdempotentRequest("alice", "key", "fingerprint")


@pytest.fixture
def keys(settings: Settings) -> IdempotencyKeys:
    return IdempotencyKeys(connect(settings), timedelta(days=7))


def test_the_same_request_gives_the_same_job(client: httpx.Client, store: JobStore) -> None:
    first = client.post("/generate", json={"steps": 5}, headers=KEY)
    again = client.post("/generate", json={"steps": 5}, headers=KEY)
    assert again.status_code == 202
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert (again.json(), again.headers["location"]) == (first.json(), first.headers["location"])
    assert len(store.page()[0]) == 1


def test_the_same_request_gives_the_same_job_after_it_has_completed(client: httpx.Client, store: JobStore) -> None:
    job_id = client.post("/generate", headers=KEY).json()["id"]
    store.claim(job_id, "a worker")
    store.start(job_id, 1)
    store.complete(job_id, 1, [OUTPUT], Timings())
    again = client.post("/generate", headers=KEY)
    assert (again.json()["id"], again.json()["status"]) == (job_id, "completed")
    assert again.headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize("body", [{"steps": 6}, {"steps": 5, "seed": 1}, {}, {"steps": 5, "metadata": {"a": "b"}}])
def test_another_request_with_the_same_key_is_refused(
    client: httpx.Client, store: JobStore, body: dict[str, object]
) -> None:
    client.post("/generate", json={"steps": 5}, headers=KEY)
    problem(client.post("/generate", json=body, headers=KEY), 422, "idempotency_key_reused")
    assert len(store.page()[0]) == 1


def test_another_spelling_is_the_same_request(client: httpx.Client) -> None:
    """The defaults may be left out, the order may change, a form may hold its parameters as fields or as one."""
    first = client.post("/generate", json={"steps": 20, "spacing": "log_snr"}, headers=KEY).json()
    assert client.post("/generate", content=b"", headers=KEY).json()["id"] == first["id"]
    assert client.post("/v1/generate", content=b" {} ", headers=KEY | JSON).json()["id"] == first["id"]
    file = {"file": ("a.mp4", media.video())}
    one, many = {"params": json.dumps({"seed": 7})}, {"seed": "7", "steps": "20"}
    forms = [client.post("/v2a", files=file, data=data, headers={"Idempotency-Key": "form"}) for data in (one, many)]
    assert forms[0].json()["id"] == forms[1].json()["id"]


JSON = {"Content-Type": "application/json"}


def test_the_file_is_part_of_the_request_and_its_name_is_not(client: httpx.Client, settings: Settings) -> None:
    clip = media.video()
    first = client.post("/v2a", files={"file": ("a.mp4", clip)}, headers=KEY)
    renamed = client.post("/v2a", files={"file": ("b.mov", clip)}, headers=KEY)
    assert renamed.json()["id"] == first.json()["id"]
    assert [path.name for path in files_in(settings.data)] == ["input.mp4"]
    other = client.post("/v2a", files={"file": ("a.mp4", media.video(seconds=1.0))}, headers=KEY)
    problem(other, 422, "idempotency_key_reused")


@pytest.mark.parametrize("route", ["/generate", "/v2a"])
def test_one_of_simultaneous_duplicates_creates_the_job(
    client: httpx.Client, store: JobStore, settings: Settings, route: str
) -> None:
    files = {"file": ("a.mp4", media.video())} if route == "/v2a" else None
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: client.post(route, files=files, headers=KEY), range(8)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert Counter("idempotency-replayed" in answer.headers for answer in answers) == {True: 7, False: 1}
    assert len(store.page()[0]) == 1
    kept = files_in(settings.data)
    assert len(kept) == (1 if files else 0), "the files of those that came too late are gone"


def test_a_refused_request_leaves_its_key_free(client: httpx.Client) -> None:
    problem(client.post("/generate", json={"steps": 0}, headers=KEY), 422, "invalid_parameter")
    problem(client.post("/generate", json={"eta": 1}, headers=KEY), 422, "invalid_parameter")
    assert client.post("/generate", json={"steps": 1}, headers=KEY).status_code == 202


def test_a_request_refused_by_an_outage_of_storage_can_be_repeated(
    run_api: Callable[[Settings], RunningApi], settings: Settings
) -> None:
    away = {"storage": "s3://clips", "s3_endpoint": "http://127.0.0.1:9", "s3_access_key": "a", "s3_secret_key": "b"}
    file = {"file": ("a.mp4", media.video())}
    broken = run_api(Settings(**settings.model_dump() | away))
    answer = httpx.post(f"{broken.url}/v2a", files=file, headers=KEY, trust_env=False, timeout=60)
    problem(answer, 503, "storage_unavailable")
    mended = run_api(settings)
    again = httpx.post(f"{mended.url}/v2a", files=file, headers=KEY, trust_env=False, timeout=60)
    assert again.status_code == 202
    assert "idempotency-replayed" not in again.headers


def test_the_key_of_a_deleted_job_does_not_make_another(client: httpx.Client, store: JobStore) -> None:
    url = client.post("/generate", headers=KEY).headers["location"]
    assert client.delete(url).status_code == 204
    problem(client.post("/generate", headers=KEY), 410, "gone")
    assert store.page() == ([], None)


def test_a_retry_accepts_a_key(client: httpx.Client) -> None:
    url = client.post("/generate").headers["location"]
    first, again = (client.post(f"{url}/retry", headers=KEY) for _ in range(2))
    assert first.json()["id"] == again.json()["id"]
    assert again.headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "ü"])
def test_an_invalid_key_is_refused(client: httpx.Client, key: str) -> None:
    answer = client.post("/generate", headers={"Idempotency-Key": key.encode("latin-1")})  # type: ignore[dict-item]
    assert problem(answer, 422, "invalid_parameter")["errors"][0]["field"] == "Idempotency-Key"


def test_keys_survive_a_restart_of_redis(
    run_api: Callable[[Settings], RunningApi], own_redis: RedisServer, tmp_path: Path
) -> None:
    api = run_api(Settings(redis_url=own_redis.url, data=tmp_path / "data"))
    first = httpx.post(f"{api.url}/generate", headers=KEY, trust_env=False).json()
    own_redis.kill()
    problem(httpx.post(f"{api.url}/generate", headers=KEY, trust_env=False), 503, "queue_unavailable")
    own_redis.start()
    assert httpx.post(f"{api.url}/generate", headers=KEY, trust_env=False).json()["id"] == first["id"]


@pytest.mark.parametrize(("retention", "kept"), [(timedelta(minutes=5), timedelta(hours=24)), (timedelta(days=7),) * 2])
def test_a_key_is_kept_as_long_as_its_job_and_a_day_at_least(
    settings: Settings, retention: timedelta, kept: timedelta
) -> None:
    client: redis.Redis = connect(settings)
    IdempotencyKeys(client, retention).reserve(REQUEST, "job_1")
    left = client.pttl(REQUEST.entry)
    assert isinstance(left, int)
    assert timedelta(seconds=-5) < timedelta(milliseconds=left) - kept <= timedelta()


def test_a_process_that_died_before_writing_the_record_holds_the_key_only_for_a_while(
    keys: IdempotencyKeys, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "LEASE", 0.3)
    dead, alive = a_job(), a_job()
    assert keys.reserve(REQUEST, dead.id) is None
    assert keys.reserve(REQUEST, alive.id) is None, "after the lease it is free"
    store.create(alive)
    assert keys.made(REQUEST) == alive.id


def test_a_process_that_died_after_writing_the_record_has_created_the_job(
    keys: IdempotencyKeys, store: JobStore
) -> None:
    job = a_job()
    assert keys.reserve(REQUEST, job.id) is None
    store.create(job)
    assert keys.reserve(REQUEST, a_job().id) == job.id


def test_a_released_key_is_free_at_once_and_only_its_holder_releases_it(keys: IdempotencyKeys) -> None:
    keys.reserve(REQUEST, "job_1")
    keys.release(REQUEST, "job_2")
    with pytest.raises(KeyReused):
        keys.made(IdempotentRequest("alice", "key", "another"))
    keys.release(REQUEST, "job_1")
    assert keys.reserve(REQUEST, "job_3") is None


def test_owner_and_key_cannot_be_confused() -> None:
    pairs = [("a", "b:c"), ("a:b", "c"), (None, "a"), ("", "a"), ("-", "a")]
    assert len({IdempotentRequest(owner, key, "").entry for owner, key in pairs}) == len(pairs)
