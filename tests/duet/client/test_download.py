"""The client accepts only the responses that it expects, and saves files completely or not at all."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx_sse import ServerSentEvent

from duet.client import AsyncDuet, Duet, Job, Refused, RetryPolicy, ServerUnreachable, operations
from duet.client.asynchronous import AsyncJob
from duet.client.effects import Done, Execution, Notify, OpenStream, Operation, ReadEvent, Send, Sleep
from duet.client.requests import Response

ONCE = RetryPolicy(())
BODY = b"a whole clip"


@contextmanager
def answering(status: int, *headers: tuple[str, str], body: bytes = b"") -> Iterator[str]:
    """The URL of a server that gives every request this response."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in (*headers, ("Content-Length", str(len(body)))):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_DELETE = do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def job_data() -> dict:
    files = {"video.mp4": "/jobs/job_1/files/video.mp4"}
    return {
        "id": "job_1",
        "kind": "generate",
        "status": "completed",
        "outputs": [{"index": 0, "seed": 1, "files": files}],
    }


@pytest.mark.parametrize("status", [204, 206, 301, 304])
def test_an_unexpected_response_keeps_the_existing_file(status: int, tmp_path: Path) -> None:
    (target := tmp_path / "clip.mp4").write_bytes(b"mine")
    with (
        answering(status, ("Location", "/elsewhere")) as url,
        Duet(url, retry=ONCE) as duet,
        pytest.raises(Refused) as refused,
    ):
        Job(duet, job_data()).save(target)
    assert refused.value.status == status
    assert target.read_bytes() == b"mine"
    assert list(tmp_path.iterdir()) == [target]


def test_a_redirect_is_no_deletion() -> None:
    with (
        answering(301, ("Location", "/login")) as url,
        Duet(url, retry=ONCE) as duet,
        pytest.raises(Refused, match="Moved Permanently"),
    ):
        Job(duet, job_data()).delete()


@pytest.mark.parametrize("body", [b"{}", b"[]", b"<html>", b'{"status": "ok"}'])
def test_a_200_of_another_program_is_refused(body: bytes) -> None:
    with answering(200, body=body) as url, Duet(url, retry=ONCE) as duet:
        for request in (duet.models, duet.jobs, duet.generate, lambda: duet.job("job_1")):
            with pytest.raises(Refused) as refused:
                request()
            assert refused.value.code == "not_duet"


def test_a_page_in_place_of_an_event_stream_is_refused_at_once() -> None:
    with answering(200, ("Content-Type", "text/html; charset=utf-8"), body=b"<html>") as url, Duet(url) as duet:
        begun = time.monotonic()
        with pytest.raises(Refused) as refused:
            list(Job(duet, job_data()).events())
        assert time.monotonic() - begun < sum(duet.retry.delays)
    assert (refused.value.status, refused.value.code) == (200, "not_duet")


def test_polling_reports_changes_only() -> None:
    def job(**changes: object) -> Response:
        return Response(200, {}, json.dumps(job_data() | changes).encode())

    reported: list[dict] = []
    operation = operations.follow(job_data() | {"status": "queued"}, reported.append, 10.0, ONCE)
    polls = iter([job(status="queued"), job(status="running"), job(status="running"), job()])
    execution = Execution(operation)
    while not isinstance(effect := execution.next(), Done):
        if isinstance(effect, Notify):
            effect.callback()
        else:
            execution.resume(next(polls) if isinstance(effect, Send) else None)
    assert [data["status"] for data in reported] == ["running", "completed"]


def test_a_retry_field_cannot_delay_the_client_for_hours() -> None:
    operation = operations.events("job_1", RetryPolicy((0.1,)))
    assert isinstance(next(operation), OpenStream)
    assert operation.send(Response(200, {"content-type": "text/event-stream"})) == ReadEvent()
    assert operation.send(ServerSentEvent(retry=10**400)) == ReadEvent()
    assert operation.throw(httpx.ReadError("broken")) == Sleep(operations.MAX_DELAY)


def test_asyncio_saves_in_another_thread(tmp_path: Path) -> None:
    threads: list[threading.Thread] = []
    watching = True

    def watch(event: str, arguments: tuple) -> None:
        if watching and event in ("open", "os.rename") and str(tmp_path) in str(arguments[0]):
            threads.append(threading.current_thread())

    async def save(url: str) -> None:
        async with AsyncDuet(url, retry=ONCE) as duet:
            await AsyncJob(duet, job_data()).save(tmp_path / "clip.mp4")

    with answering(200, body=BODY) as url:
        sys.addaudithook(watch)
        asyncio.run(save(url))
        watching = False
    assert (tmp_path / "clip.mp4").read_bytes() == BODY
    assert len(threads) == 2
    assert threading.main_thread() not in threads


@pytest.mark.parametrize(
    ("outcome", "repeated"),
    [(httpx.ReadTimeout(""), False), (504, False), (httpx.ConnectError(""), True), (503, True)],
)
def test_a_reload_is_not_repeated_after_a_timeout(outcome: httpx.TransportError | int, repeated: bool) -> None:
    """The server may have done it: the second answer would be that nothing has changed."""
    execution = Execution(reload_models(RetryPolicy((0.1,))))
    sent = execution.next()
    assert isinstance(sent, Send)
    assert sent.request.timeout >= 300
    if isinstance(outcome, int):
        execution.resume(Response(outcome, {}))
    else:
        execution.fail(outcome)
    if repeated:
        assert execution.next() == Sleep(0.1)
    else:
        with pytest.raises((ServerUnreachable, Refused)):
            execution.next()


def reload_models(retry: RetryPolicy) -> Operation[dict[str, Any]]:
    """The operation of `Duet.reload_models`, before it is performed."""
    operations_of: list[Operation[dict[str, Any]]] = []

    class Recorder(Duet):
        def run(self, operation: Operation[Any]) -> Any:
            operations_of.append(operation)

    with Recorder("http://127.0.0.1:1", retry=retry) as duet:
        duet.reload_models()
    return operations_of[0]
