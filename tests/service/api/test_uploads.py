"""Uploads that are interrupted, too large, too slow or malformed."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.api import middleware
from service.api.uploads import sweep, temporary_file
from service.settings import Settings
from tests.conftest import RunningApi
from tests.files import files_in
from tests.service import media
from tests.service.answers import problem
from tests.waiting import until

HEAD = b'--XX\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\nContent-Type: video/mp4\r\n\r\n'
END = b"\r\n--XX--\r\n"
FORM = {"Content-Type": "multipart/form-data; boundary=XX"}


@pytest.fixture
def api(run_api: Callable[[Settings], RunningApi], settings: Settings) -> RunningApi:
    """An API that accepts uploads of at most 1 MiB."""
    return run_api(settings.model_copy(update={"max_upload_mib": 1}))


@pytest.mark.parametrize("announce", [True, False])
def test_an_interrupted_upload_leaves_nothing(api: RunningApi, settings: Settings, announce: bool) -> None:
    size = b"Content-Length: 900000" if announce else b"Transfer-Encoding: chunked"
    piece = HEAD + bytes(200_000)
    sent = piece if announce else b"%x\r\n%b\r\n" % (len(piece), piece)
    with socket.create_connection(("127.0.0.1", api.port)) as client:
        client.sendall(
            b"POST /v2a HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=XX\r\n" + size
        )
        client.sendall(b"\r\n\r\n" + sent)
        # Part of it is on disk, so the request is in progress when the client disconnects.
        until(lambda: [path for path in files_in(settings.data) if path.stat().st_size > 100_000], "a part is on disk")
    until(lambda: not files_in(settings.data), "the part is removed")
    assert httpx.get(f"{api.url}/healthz", trust_env=False).status_code == 200


def test_an_upload_leaves_nothing_when_the_server_stops(
    run_api: Callable[[Settings], RunningApi], settings: Settings
) -> None:
    api = run_api(settings)
    with socket.create_connection(("127.0.0.1", api.port)) as client:
        client.sendall(b"POST /v2a HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=XX\r\n")
        client.sendall(b"Content-Length: 900000\r\n\r\n" + HEAD + bytes(200_000))
        until(lambda: files_in(settings.data), "a part is on disk")
        client.shutdown(socket.SHUT_RDWR)
        api.stop()
    assert files_in(settings.data) == []


def test_a_file_above_the_limit_is_refused_by_its_content_length(api: RunningApi, settings: Settings) -> None:
    """Before it is sent: the client waits for `100 Continue`, as curl does."""
    with socket.create_connection(("127.0.0.1", api.port)) as client:
        client.sendall(
            b"POST /v2a HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=XX\r\n"
            b"Content-Length: 999999999\r\nExpect: 100-continue\r\n\r\n"
        )
        assert client.recv(1000).startswith(b"HTTP/1.1 413 ")
    assert files_in(settings.data) == []


def test_a_file_above_the_limit_is_refused_during_the_upload(api: RunningApi, settings: Settings) -> None:
    def endless() -> Iterator[bytes]:
        yield HEAD
        for _ in range(256):
            yield bytes(2**16)

    answer = httpx.post(f"{api.url}/v2a", content=endless(), headers=FORM, trust_env=False)
    assert problem(answer, 413, "too_large")["errors"][0] == {
        "field": "file",
        "got": "more",
        "allowed": "at most 1 MiB",
    }
    assert files_in(settings.data) == []


def test_a_file_at_the_limit_is_accepted(api: RunningApi) -> None:
    """A free box after the clip fills the file up to the limit."""
    clip = media.video()
    room = 2**20 - len(clip)
    padded = clip + room.to_bytes(4, "big") + b"free" + bytes(room - 8)
    for size, status in ((2**20, 202), (2**20 + 1, 413)):
        file = {"file": ("a.mp4", padded + bytes(size - 2**20))}
        assert httpx.post(f"{api.url}/v2a", files=file, trust_env=False).status_code == status


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no form at all",
        HEAD + b"x",
        HEAD + b"x\r\n--XX",
        b"--XX\r\n\r\nx" + END,
        b"--XX\r\nContent-Disposition: form-data\r\n\r\nx" + END,
        b'--XX\r\nContent-Disposition: form-data; name="seed"\r\n\r\n\xff\xfe' + END,
    ],
)
def test_an_incomplete_form_is_malformed(api: RunningApi, settings: Settings, body: bytes) -> None:
    problem(httpx.post(f"{api.url}/v2a", content=body, headers=FORM, trust_env=False), 400, "malformed")
    assert files_in(settings.data) == []


def test_a_form_is_parsed_however_it_is_split(api: RunningApi) -> None:
    clip = media.video(seconds=0.5, width=16, height=16)
    cut = random.Random(5)
    form = b'--XX\r\nContent-Disposition: form-data; name="seed"\r\n\r\n77\r\n' + HEAD + clip + END

    def pieces() -> Iterator[bytes]:
        rest = form
        while rest:
            size = cut.choice((1, 2, 3, 50, 500))
            yield rest[:size]
            rest = rest[size:]

    job = httpx.post(f"{api.url}/v2a", content=pieces(), headers=FORM, trust_env=False, timeout=60).json()
    assert job["params"]["seed"] == 77
    assert httpx.get(f"{api.url}{job['urls']['self']}/files/input.mp4", trust_env=False).content == clip


def test_a_form_without_a_file_is_refused(api: RunningApi) -> None:
    answer = httpx.post(f"{api.url}/v2a", files={"seed": (None, "1")}, trust_env=False)
    assert problem(answer, 422, "missing_file")["errors"][0]["field"] == "file"


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        ([("file", (None, "words"))], "file"),
        ([("clip", ("a.mp4", b"x"))], "clip"),
        ([("file", ("a.mp4", b"x")), ("file", ("b.mp4", b"y"))], "file"),
        ([("seed", (None, "1")), ("seed", (None, "2"))], "seed"),
        ([("metadata", (None, "x" * 70_000))], "metadata"),
        ([(f"field{number}", (None, "x")) for number in range(41)], "field40"),
    ],
)
def test_invalid_parts_of_a_form_are_named(
    api: RunningApi, settings: Settings, parts: list[tuple[str, tuple[str | None, str | bytes]]], field: str
) -> None:
    answer = httpx.post(f"{api.url}/v2a", files=parts, trust_env=False)
    assert problem(answer, 422, "invalid_parameter")["errors"][0]["field"] == field
    assert files_in(settings.data) == []


@pytest.mark.parametrize("content_type", ["application/json", "multipart/form-data", "video/mp4", ""])
def test_another_content_type_is_refused(api: RunningApi, content_type: str) -> None:
    answer = httpx.post(f"{api.url}/a2v", content=b"{}", headers={"Content-Type": content_type}, trust_env=False)
    problem(answer, 415, "unsupported_media_type")


def test_a_full_disk_is_reported(run_api: Callable[[Settings], RunningApi], settings: Settings) -> None:
    settings.temporary.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "duet-test", str(settings.temporary)]
    if os.geteuid() != 0 or subprocess.run(mount).returncode:
        pytest.skip("only root can mount the small disk that this needs")
    try:
        api = run_api(settings)
        answer = httpx.post(f"{api.url}/v2a", files={"file": ("a.mp4", bytes(2**22))}, trust_env=False)
        problem(answer, 507, "storage_full")
        assert files_in(settings.data) == []
    finally:
        subprocess.run(["umount", settings.temporary], check=True)


def test_only_files_of_a_killed_process_are_swept(tmp_path: Path) -> None:
    for name in ("upload-abandoned", "upload-coming", "something-else"):
        (tmp_path / name).write_bytes(b"x")
    with (tmp_path / "upload-coming").open("rb") as coming:
        fcntl.flock(coming, fcntl.LOCK_EX)
        assert sweep(tmp_path) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"upload-coming", "something-else"}
    assert sweep(tmp_path / "not there") == 0


def test_uploads_leave_a_reserve_on_the_disk(run_api: Callable[[Settings], RunningApi], settings: Settings) -> None:
    """So that Redis can still write, and jobs can be read and deleted to free space."""
    free = shutil.disk_usage(settings.data).free // 2**20
    api = run_api(settings.model_copy(update={"disk_reserve_mib": free + 1024}))
    url = httpx.post(f"{api.url}/generate", trust_env=False).headers["location"]
    file = {"file": ("a.mp4", media.video(0.5))}
    problem(httpx.post(f"{api.url}/v2a", files=file, trust_env=False), 507, "storage_full")
    assert httpx.get(f"{api.url}{url}", trust_env=False).status_code == 200
    assert httpx.delete(f"{api.url}{url}", trust_env=False).status_code == 204
    assert files_in(settings.data) == []


def test_a_slow_upload_ends(
    run_api: Callable[[Settings], RunningApi], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(middleware, "RATE_PERIOD_S", 1)
    api = run_api(settings)
    with socket.create_connection(("127.0.0.1", api.port), timeout=20) as client:
        client.sendall(b"POST /v2a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000\r\n")
        client.sendall(b"Content-Type: multipart/form-data; boundary=XX\r\n\r\n" + HEAD)
        assert client.recv(1000).startswith(b"HTTP/1.1 408 ")
    until(lambda: not files_in(settings.data), "nothing is left")


def test_simultaneous_uploads_of_a_caller_are_limited(
    run_api: Callable[[Settings], RunningApi], settings: Settings
) -> None:
    api = run_api(settings.model_copy(update={"max_uploads_per_key": 2}))
    clients = []
    file = {"file": ("a.mp4", media.video(0.5))}
    try:
        for number in range(1, 3):
            client = socket.create_connection(("127.0.0.1", api.port))
            clients.append(client)
            client.sendall(b"POST /v2a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000\r\n")
            client.sendall(b"Content-Type: multipart/form-data; boundary=XX\r\n\r\n" + HEAD)
            until(lambda: len(list(settings.temporary.glob("*"))) == number, "it is under way")  # noqa: B023
        refused = problem(httpx.post(f"{api.url}/v2a", files=file, trust_env=False), 429, "too_many_uploads")
        assert refused["detail"] == "2 uploads are in progress already."
    finally:
        for client in clients:
            client.close()
    until(lambda: not files_in(settings.data), "they have ended")
    assert httpx.post(f"{api.url}/v2a", files=file, trust_env=False).status_code == 202


def test_a_file_swept_before_it_is_locked_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may sweep between the creation of the file and its lock."""
    lock, swept = fcntl.flock, []

    def sweep_first(file: Any, operation: int) -> None:
        if not swept:
            swept.append(True)
            assert sweep(tmp_path) == 1
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", sweep_first)
    with temporary_file(tmp_path, 0) as (path, file):
        file.write(b"x")
        file.flush()
        assert path.read_bytes() == b"x"
        assert sweep(tmp_path) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_file_name_may_be_encoded(api: RunningApi) -> None:
    """`filename*=`, as some clients write it (RFC 5987)."""
    head = b"--XX\r\nContent-Disposition: form-data; name=\"file\"; filename*=UTF-8''%e2%82%ac.mp4\r\n\r\n"
    body = head + media.video(0.5) + END
    job = httpx.post(f"{api.url}/v2a", content=body, headers=FORM, trust_env=False).json()
    assert job["input"]["filename"] == "€.mp4"
