"""The breaker's states by a fake clock, and an API beside an S3 server that accepts connections and says nothing."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import boto3
import httpx
import pytest

from service.settings import Settings
from service.storage import FolderStorage, ObjectNotFound, StorageFull, StorageRefused, StorageUnavailable
from service.storage.breaker import FAILURES, PAUSE_S, Breaker, GuardedStorage
from service.storage.protocol import ObjectInfo
from tests.conftest import RunningApi
from tests.service import media
from tests.service.answers import problem
from tests.tcp_server import TcpServer, pump
from tests.waiting import until


class Store:
    """A store that raises `fault` if it has one, and counts its calls."""

    fault: Exception | None = None
    check_fault: Exception | None = None
    broken_stream = False
    calls = 0

    def __init__(self) -> None:
        self.deleted: list[str] = []

    def check(self) -> None:
        self._call()
        if self.check_fault is not None:
            raise self.check_fault

    def delete_prefix(self, prefix: str) -> None:
        self._call()
        self.deleted.append(prefix)

    def info(self, key: str) -> ObjectInfo:
        self._call()
        return ObjectInfo(key, 1, "etag")

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        self._call()
        return self._pieces()

    def _pieces(self) -> Iterator[bytes]:
        yield b"one"
        if self.broken_stream:
            raise StorageUnavailable("in the middle")

    def _call(self) -> None:
        self.calls += 1
        if self.fault is not None:
            raise self.fault


class Guarded:
    """A guarded store with a clock that stands still."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.changes: list[bool] = []
        self.store = Store()
        self.breaker = Breaker(clock=lambda: self.now, changed=self.changes.append)
        self.storage = GuardedStorage(self.store, self.breaker)  # type: ignore[arg-type]

    def fail(self, times: int) -> None:
        self.store.fault = StorageUnavailable("no answer")
        for _ in range(times):
            with pytest.raises(StorageUnavailable, match="no answer"):
                self.storage.info("a")

    def refused_at_once(self) -> bool:
        calls = self.store.calls
        with pytest.raises(StorageUnavailable):
            self.storage.info("a")
        return self.store.calls == calls


@pytest.fixture
def guarded() -> Guarded:
    return Guarded()


def test_failures_in_a_row_open_it_and_calls_then_fail_at_once(guarded: Guarded) -> None:
    guarded.fail(FAILURES - 1)
    guarded.store.fault = None
    guarded.storage.info("a")
    guarded.fail(FAILURES - 1)
    assert not guarded.breaker.open, "a success in between counts"
    guarded.fail(1)
    assert guarded.breaker.open
    assert guarded.changes == [True]
    guarded.now += PAUSE_S - 0.1
    assert all(guarded.refused_at_once() for _ in range(10))


def test_a_probe_that_fails_keeps_it_open_for_another_pause(guarded: Guarded) -> None:
    guarded.fail(FAILURES)
    for _ in range(3):
        guarded.now += PAUSE_S
        assert not guarded.refused_at_once(), "one call probes"
        assert guarded.refused_at_once()
    assert guarded.changes == [True]


def test_a_probe_that_passes_closes_it_on_trial(guarded: Guarded) -> None:
    guarded.fail(FAILURES)
    guarded.now += PAUSE_S
    guarded.store.fault = None
    assert guarded.storage.info("a").size == 1
    assert guarded.changes == [True, False]
    guarded.fail(FAILURES - 1)
    assert not guarded.breaker.open, "the success ended the trial"

    guarded.fail(1)
    guarded.now += PAUSE_S
    guarded.store.fault = None
    guarded.breaker.admit(guarded.store.check)
    guarded.fail(1)
    assert guarded.breaker.open, "one failure on trial opens it again"


@pytest.mark.parametrize("answer", [StorageFull("full"), StorageRefused("forbidden")])
def test_a_probe_of_a_full_or_forbidden_store_closes_it_and_the_call_goes_on(
    guarded: Guarded, answer: StorageRefused
) -> None:
    """A full store must remain open to deletions."""
    guarded.fail(FAILURES)
    guarded.now += PAUSE_S
    guarded.store.fault = None
    guarded.store.check_fault = answer
    guarded.storage.delete_prefix("a/")
    assert guarded.store.deleted == ["a/"]
    assert guarded.changes == [True, False]
    with pytest.raises(type(answer)):
        guarded.storage.check()
    assert not guarded.breaker.open


def test_one_caller_probes_at_a_time(guarded: Guarded) -> None:
    guarded.fail(FAILURES)
    guarded.now += PAUSE_S
    probing, let_go = threading.Event(), threading.Event()

    def slow_probe() -> None:
        probing.set()
        assert let_go.wait(10)

    thread = threading.Thread(target=guarded.breaker.admit, args=[slow_probe])
    thread.start()
    assert probing.wait(10)
    assert all(guarded.refused_at_once() for _ in range(5))
    let_go.set()
    thread.join()
    assert not guarded.breaker.open


def test_a_call_from_before_the_outage_does_not_open_it_again(guarded: Guarded) -> None:
    hanging = guarded.breaker.admit(guarded.store.check)
    guarded.fail(FAILURES)
    guarded.now += PAUSE_S
    guarded.store.fault = None
    guarded.storage.check()
    for _ in range(FAILURES):
        guarded.breaker.failed(hanging)
    assert not guarded.breaker.open


@pytest.mark.parametrize("answer", [ObjectNotFound("a"), StorageFull("full"), StorageRefused("forbidden")])
def test_an_answer_is_no_failure(guarded: Guarded, answer: Exception) -> None:
    guarded.fail(FAILURES - 1)
    guarded.store.fault = answer
    with pytest.raises(type(answer)):
        guarded.storage.info("a")
    guarded.fail(FAILURES - 1)
    assert not guarded.breaker.open


def test_a_store_that_stops_in_the_middle_of_objects_fails(guarded: Guarded) -> None:
    assert b"".join(guarded.storage.read("a")) == b"one"
    guarded.store.broken_stream = True
    for _ in range(FAILURES):
        pieces = guarded.storage.read("a")
        with pytest.raises(StorageUnavailable, match="in the middle"):
            list(pieces)
    assert guarded.breaker.open


def test_a_folder_has_one_too(settings: Settings) -> None:
    folder = settings.data / "storage"
    storage = GuardedStorage(FolderStorage(folder), breaker := Breaker(pause=0.1))
    folder.write_text("a file in its place")
    for _ in range(FAILURES):
        with pytest.raises(StorageUnavailable):
            storage.check()
    assert breaker.open
    folder.unlink()
    until(lambda: not breaker.open or _passes(storage), "it is usable again")
    storage.put_bytes("a", b"x", "text/plain")


def _passes(storage: GuardedStorage) -> bool:
    try:
        storage.check()
    except StorageUnavailable:
        return False
    return True


class Falls(TcpServer):
    """Passes connections on to `target`, or while `silent` accepts them and never answers, also afterwards."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.silent = True
        self._target = target
        self._closed = threading.Event()
        super().__init__(backlog=512)

    def serve(self, client: socket.socket) -> None:
        if self.silent:
            self._closed.wait(120)
            return
        with socket.create_connection(self._target, 5) as server:
            server.settimeout(None)
            threading.Thread(target=pump, args=[server, client], daemon=True).start()
            pump(client, server)

    def close(self) -> None:
        self._closed.set()
        super().close()


@pytest.mark.timed
def test_a_silent_s3_costs_only_requests_that_need_it_and_they_recover(
    run_api: Callable[[Settings], RunningApi], settings: Settings, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.storage.s3.DATA_TIMEOUT_S", 4)
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
    boto3.client("s3", endpoint_url=s3_endpoint, region_name="us-east-1", **keys).create_bucket(Bucket="breaker")
    parts = urlsplit(s3_endpoint)
    server = Falls((str(parts.hostname), int(parts.port or 0)))
    s3 = {
        "storage": "s3://breaker",
        "s3_endpoint": f"http://127.0.0.1:{server.port}",
        "s3_access_key": "a",
        "s3_secret_key": "b",
        "max_uploads_per_key": 100,
    }
    api = run_api(Settings(**settings.model_dump() | s3))
    file = {"file": ("a.mp4", media.video(0.5))}

    def get(path: str) -> tuple[httpx.Response, float]:
        began = time.monotonic()
        answer = httpx.get(f"{api.url}{path}", trust_env=False, timeout=60)
        return answer, time.monotonic() - began

    def upload() -> httpx.Response:
        return httpx.post(f"{api.url}/v2a", files=file, trust_env=False, timeout=120)

    try:
        with ThreadPoolExecutor(110) as pool:
            uploads = [pool.submit(upload) for _ in range(20)]
            ready = [pool.submit(get, "/readyz") for _ in range(90)]
            slowest = 0.0
            threads = 0
            while not (all(each.done() for each in ready) and all(each.done() for each in uploads)):
                slowest = max(slowest, get("/healthz")[1], get("/jobs")[1])
                threads = max(threads, sum(each.name.startswith("AnyIO") for each in threading.enumerate()))
            assert slowest < 3, "other requests go on"
            for answer, _ in (each.result() for each in ready):
                assert "storage" in problem(answer, 503, "not_ready")["missing"]
            for each in uploads:
                problem(each.result(), 503, "storage_unavailable")
            assert threads <= 40 + 32 + 4, "calls that hang take no more threads than are theirs"

        assert "duet_storage_breaker_open 1.0" in get("/metrics")[0].text
        quick = 0
        for _ in range(8):
            began = time.monotonic()
            problem(upload(), 503, "storage_unavailable")
            quick += time.monotonic() - began < 1.5
        assert quick >= 4, "most calls fail at once, some probe"

        server.silent = False
        until(lambda: upload().status_code == 202, "it recovers by itself", 10)
        until(lambda: "storage" not in get("/readyz")[0].json().get("missing", ()), "it is ready again", 5)
        assert "duet_storage_breaker_open 0.0" in get("/metrics")[0].text
    finally:
        server.close()
