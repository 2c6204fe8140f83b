from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from service.jobs.store import JobStore
from service.settings import Settings
from tests.conftest import RedisServer, RunningApi
from tests.service.answers import problem


def test_the_process_answers_whatever_is_missing(
    run_api: Callable[[Settings], RunningApi], own_redis: RedisServer, tmp_path: Path
) -> None:
    api = run_api(Settings(redis_url=own_redis.url, data=tmp_path / "data"))
    own_redis.stop()
    answer = httpx.get(f"{api.url}/healthz", trust_env=False)
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_it_is_ready_with_redis_storage_and_a_worker(client: httpx.Client, store: JobStore) -> None:
    assert problem(client.get("/readyz"), 503, "not_ready")["missing"] == ["worker"]
    store.announce_worker("one")
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ready"})
    store.forget_worker("one")
    assert problem(client.get("/readyz"), 503, "not_ready")["missing"] == ["worker"]


@pytest.mark.parametrize("storage", ["folder", "s3"])
def test_what_is_missing_is_named(
    run_api: Callable[[Settings], RunningApi], own_redis: RedisServer, tmp_path: Path, storage: str
) -> None:
    (tmp_path / "file").write_bytes(b"")
    settings = Settings(redis_url=own_redis.url, data=tmp_path / "data", storage=str(tmp_path / "file"))
    if storage == "s3":
        settings = settings.model_copy(update={"storage": "s3://clips", "s3_endpoint": "http://127.0.0.1:9"})
    api = run_api(settings)
    own_redis.stop()
    body = problem(httpx.get(f"{api.url}/readyz", trust_env=False, timeout=30), 503, "not_ready")
    assert body["missing"] == ["redis", "storage"]
    assert body["detail"] == "Missing: redis, storage."
