"""Clients that send endless or slow headers, or open too many connections."""

from __future__ import annotations

import contextlib
import re
import resource
import socket
import time
from collections.abc import Callable

import httpx
import pytest

from service.connections import MAX_PIPELINED
from service.settings import Settings
from tests.conftest import RunningApi

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
REQUEST = b"POST /generate HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture
def api(run_api: Callable[[Settings], RunningApi], settings: Settings) -> RunningApi:
    return run_api(settings.model_copy(update={"header_timeout_s": 1, "max_connections_per_address": 5}))


def _connect(api: RunningApi) -> socket.socket:
    return socket.create_connection(("127.0.0.1", api.port), timeout=20)


def _sent(client: socket.socket, piece: bytes, most: int) -> int:
    """Send `piece` until the server closes the connection; return the number of bytes sent."""
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < most:
            client.sendall(piece)
            sent += len(piece)
    return sent


@pytest.mark.parametrize("piece", [b"X-Many: 1\r\n" * 1000, b"x" * 10_000, b"X-Long: " + b"y" * 10_000 + b"\r\n"])
@pytest.mark.parametrize(
    "opening",
    [REQUEST, REQUEST + b"X: ", b"GET /", REQUEST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"],
    ids=["headers", "a header", "a path", "trailers"],
)
def test_endless_headers_are_refused(api: RunningApi, opening: bytes, piece: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with _connect(api) as client:
        client.sendall(opening)
        assert _sent(client, piece, 100 * 2**20) < 20 * 2**20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024
    assert httpx.get(f"{api.url}/healthz", trust_env=False).status_code == 200


def test_many_headers_are_refused_with_431(api: RunningApi) -> None:
    headers = {f"X-{number}": "1" for number in range(101)}
    assert httpx.get(f"{api.url}/healthz", headers=headers, trust_env=False).status_code == 431


@pytest.mark.parametrize("opening", [b"", b"GET /heal", REQUEST])
def test_headers_have_a_time_limit(api: RunningApi, opening: bytes) -> None:
    with _connect(api) as client:
        client.sendall(opening)
        began = time.monotonic()
        assert client.recv(100).startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - began < 10


def test_the_second_request_of_a_connection_has_the_same_limit(api: RunningApi) -> None:
    with _connect(api) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = client.recv(4000)
        while not answer.endswith(b'{"status":"ok"}'):  # headers and body may come apart
            received = client.recv(4000)
            assert received, answer
            answer += received
        assert answer.startswith(b"HTTP/1.1 200 ")
        time.sleep(1.5)  # idle for longer than the limit on headers
        client.sendall(b"GET /heal")
        assert client.recv(4000).startswith(b"HTTP/1.1 408 ")


def test_connections_of_an_address_are_limited(api: RunningApi) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(_connect(api))
        with _connect(api) as one_more:
            assert one_more.recv(100).startswith(b"HTTP/1.1 503 ")
    time.sleep(0.1)
    assert httpx.get(f"{api.url}/healthz", trust_env=False).status_code == 200


def test_a_body_in_many_small_chunks_does_not_count_as_headers(api: RunningApi) -> None:
    body = b'{"metadata": {"a": "' + b"x" * 500 + b'"}}'
    chunks = (bytes([byte]) for byte in body)
    headers = {"Content-Type": "application/json"}
    answer = httpx.post(f"{api.url}/generate", content=chunks, headers=headers, trust_env=False)
    assert answer.status_code == 202, answer.text


def test_nothing_behind_a_request_with_too_many_headers_is_served(api: RunningApi) -> None:
    many = b"".join(b"X-%d: 1\r\n" % number for number in range(101))
    with _connect(api) as client:
        client.sendall(HEALTH[:-2] + many + b"\r\n" + HEALTH)
        assert _received(client).startswith(b"HTTP/1.1 431 ")


def test_pipelined_requests_are_answered_in_order_up_to_a_limit(api: RunningApi) -> None:
    with _connect(api) as client:
        client.sendall(HEALTH.replace(b"/healthz", b"/nowhere") + HEALTH[:-2] + b"Connection: close\r\n\r\n")
        assert re.findall(rb"HTTP/1.1 (\d+) ", _received(client)) == [b"404", b"200"]
    with _connect(api) as client:
        client.sendall(HEALTH * 1000)
        assert _received(client).count(b"HTTP/1.1 200 ") <= MAX_PIPELINED + 2


@pytest.mark.parametrize(
    "ambiguous",
    [
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: elsewhere\r\n\r\n",
        REQUEST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ],
    ids=["no host", "two hosts", "chunks in HTTP/1.0"],
)
def test_an_ambiguous_request_is_malformed(api: RunningApi, ambiguous: bytes) -> None:
    with _connect(api) as client:
        client.sendall(ambiguous + HEALTH)
        assert re.findall(rb"HTTP/1.1 (\d+) ", _received(client)) == [b"400"]


def test_an_upgrade_that_is_not_offered_is_ignored(api: RunningApi) -> None:
    headers = {"Connection": "upgrade", "Upgrade": "websocket"}
    assert httpx.get(f"{api.url}/healthz", headers=headers, trust_env=False).status_code == 200


def _received(client: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while data := client.recv(2**16):
            received += data
    return received
