"""Numbers in requests: however many digits they have, the response is never a 500."""

from __future__ import annotations

import socket

import httpx
import pytest

from tests.conftest import RunningApi
from tests.service import media
from tests.service.answers import problem

HUGE = ["9" * 5000, "9" * 30, "-" + "9" * 5000, "1e" + "9" * 400, "0x10", "٣", "nan"]


@pytest.mark.parametrize("number", HUGE)
def test_a_query_parameter(client: httpx.Client, number: str) -> None:
    problem(client.get("/jobs", params={"limit": number}), 422, "invalid_parameter")


@pytest.mark.parametrize("number", HUGE)
def test_a_form_field(client: httpx.Client, number: str) -> None:
    answer = client.post("/v2a", files={"file": ("a.mp4", media.video(0.5))}, data={"seed": number})
    problem(answer, 422, "invalid_parameter")


@pytest.mark.parametrize("number", ["9" * 5000, "9" * 4000, "-" + "9" * 4000, "1e999", "NaN", "Infinity"])
def test_a_json_number(client: httpx.Client, number: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = client.post("/generate", content=f'{{"seed": {number}, "eta": {number}}}', headers=headers)
    assert answer.status_code in (400, 422), answer.text


@pytest.mark.parametrize("number", HUGE)
def test_headers(client: httpx.Client, number: str) -> None:
    url = client.post("/generate", headers={"Prefer": f"wait={number}".encode()}).headers["location"]
    answer = client.get(f"{url}/events", headers={"Last-Event-ID": f"{number}-{number}".encode()})
    problem(answer, 422, "invalid_parameter")


@pytest.mark.parametrize("number", HUGE)
def test_the_expiry_of_a_signed_url(client: httpx.Client, number: str) -> None:
    url = client.post("/generate").headers["location"]
    query = {"key": "alice", "expires": number, "signature": "0" * 64}
    assert client.get(f"{url}/files/video.mp4", params=query).status_code < 500


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "null", "://", "http://host:99999999"])
def test_an_origin_that_is_not_a_url_is_another_site(client: httpx.Client, origin: str) -> None:
    problem(client.post("/generate", headers={"Origin": origin}), 403, "cross_site")


@pytest.mark.parametrize("length", ["9" * 5000, "9" * 19, "-1", "1_0", "0x10"])
def test_a_content_length(shared_api: RunningApi, client: httpx.Client, length: str) -> None:
    with socket.create_connection(("127.0.0.1", shared_api.port), timeout=10) as connection:
        request = f"POST /generate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n"
        connection.sendall(request.encode())
        assert connection.recv(100).split()[1] in (b"400", b"413")
