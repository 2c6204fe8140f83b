from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from service.jobs.store import JobStore
from service.settings import Settings
from tests.conftest import RedisServer, RunningApi
from tests.service.answers import problem
from tests.service.keys import client_of, with_keys
from tests.waiting import until


def test_the_process_is_healthy_without_its_dependencies(
    run_api: Callable[[Settings], RunningApi], own_redis: RedisServer, tmp_path: Path
) -> None:
    api = run_api(Settings(redis_url=own_redis.url, data=tmp_path / "data"))
    own_redis.stop()
    answer = httpx.get(f"{api.url}/healthz", trust_env=False)
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_it_is_ready_with_redis_storage_and_a_worker(client: httpx.Client, store: JobStore) -> None:
    until(lambda: client.get("/readyz").json().get("missing") == ["worker"], "it is not ready")
    problem(client.get("/readyz"), 503, "not_ready")
    store.announce_worker("one")
    until(lambda: client.get("/readyz").status_code == 200, "it is ready")
    assert client.get("/readyz").json() == {"status": "ready"}
    store.forget_worker("one")
    until(lambda: client.get("/readyz").status_code == 503, "it is not ready")
    assert problem(client.get("/readyz"), 503, "not_ready")["missing"] == ["worker"]


@pytest.mark.parametrize("storage", ["folder", "s3"])
def test_missing_dependencies_are_named(
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


def readiness_logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
    return [line["event"] for line in lines if "storage" in (line.get("missing"), line.get("dependency"))]


def test_only_changes_of_readiness_are_logged(
    run_api: Callable[[Settings], RunningApi],
    settings: Settings,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("service.api.readiness.FRESH_S", 0.0)
    folder = tmp_path / "objects"
    api = run_api(settings.model_copy(update={"storage": str(folder)}))

    def missing() -> list[str]:
        found: list[str] = httpx.get(f"{api.url}/readyz", trust_env=False).json().get("missing", [])
        return found

    assert "storage" not in missing()
    assert readiness_logged(caplog) == []
    folder.rmdir()
    folder.write_text("a file in its place")
    assert all("storage" in missing() for _ in range(5))
    assert readiness_logged(caplog) == ["not ready"]
    folder.unlink()
    until(lambda: "storage" not in missing(), "it is ready again")
    missing()
    assert readiness_logged(caplog) == ["not ready", "ready again"]


class _Silent:
    """An S3 server that accepts connections and does not respond."""

    def __enter__(self) -> str:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=512)
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __exit__(self, *exception: object) -> None:
        self._socket.close()


def test_silent_storage_delays_neither_health_checks_nor_other_requests(
    run_api: Callable[[Settings], RunningApi], settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with _Silent() as endpoint:
        s3 = {"storage": "s3://clips", "s3_endpoint": endpoint, "s3_access_key": "a", "s3_secret_key": "b"}
        api = run_api(Settings(**settings.model_dump() | s3))

        def ready() -> float:
            began = time.monotonic()
            answer = httpx.get(f"{api.url}/readyz", trust_env=False, timeout=30)
            assert "storage" in problem(answer, 503, "not_ready")["missing"]
            return time.monotonic() - began

        with ThreadPoolExecutor(90) as pool:
            asked = [pool.submit(ready) for _ in range(90)]
            began = time.monotonic()
            for path in ("/healthz", "/models", "/jobs"):
                assert httpx.get(f"{api.url}{path}", trust_env=False).status_code == 200
            assert time.monotonic() - began < 5
            assert max(each.result() for each in asked) < 8
        assert readiness_logged(caplog) == ["not ready"], "not one line for each request"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "localhost.evil.example", "10.0.0.1", "", "a b"])
def test_without_keys_an_unknown_host_is_refused(client: httpx.Client, host: str) -> None:
    """As after DNS rebinding: the name of another site resolves to this machine."""
    for path in ("/", "/jobs", "/healthz"):
        problem(client.get(path, headers={"Host": host}), 421, "unknown_host")


@pytest.mark.parametrize("host", ["localhost", "localhost:9", "127.0.0.1", "[::1]:8000", "duet.localhost", "LOCALHOST"])
def test_without_keys_loopback_names_are_served(client: httpx.Client, host: str) -> None:
    assert client.get("/jobs", headers={"Host": host}).status_code == 200


def test_the_public_host_is_served_and_with_keys_every_host(
    run_api: Callable[[Settings], RunningApi], settings: Settings
) -> None:
    api = run_api(settings.model_copy(update={"public_url": "https://duet.example/x"}))
    assert httpx.get(f"{api.url}/jobs", headers={"Host": "duet.example"}, trust_env=False).status_code == 200
    keyed = run_api(with_keys(settings))
    assert client_of(keyed, "alice").get("/jobs", headers={"Host": "any.example"}).status_code == 200
