"""Metrics of the API: over HTTP, with a real Redis, and with one that is unavailable or silent."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from duet.standalone import stack as local
from service.jobs.record import Status
from service.jobs.store import JobStore
from service.settings import Settings
from tests.conftest import RedisServer, RunningApi
from tests.exposition import scraped
from tests.service import media
from tests.service.keys import client_of, with_keys
from tests.waiting import until

RunApi = Callable[[Settings], RunningApi]


@pytest.fixture
def api(run_api: RunApi, settings: Settings) -> RunningApi:
    """One of its own: counters begin at nothing."""
    return run_api(settings)


@pytest.fixture
def own(api: RunningApi) -> Iterator[httpx.Client]:
    with client_of(api, None) as client:
        yield client


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_requests_are_counted_by_route_template(api: RunningApi, own: httpx.Client) -> None:
    job = own.post("/generate").json()["id"]
    for path in (f"/jobs/{job}", f"/v1/jobs/{job}", "/jobs/job_00000000000000000000000000", "/nothing", f"/{job}"):
        own.get(path)
    own.get(f"/v1/videos/{job.replace('job_', 'video_')}")
    own.request("PROPFIND", "/generate")
    found = scraped(f"{api.url}/metrics")
    requests = 'duet_http_requests_total{method="%s",route="%s",status="%s"}'
    assert found[requests % ("POST", "/generate", 202)] == 1
    assert found[requests % ("GET", "/jobs/{job_id}", 200)] == 2
    assert found[requests % ("GET", "/jobs/{job_id}", 404)] == 1
    assert found[requests % ("GET", "/videos/{video_id}", 200)] == 1
    assert found[requests % ("GET", "none", 404)] == 2
    assert sum(value for name, value in found.items() if 'method="other"' in name and "requests_total" in name) == 1
    assert found['duet_http_request_seconds_count{method="GET",route="/jobs/{job_id}"}'] == 3
    assert job not in own.get("/metrics").text


def test_accepted_and_refused_uploads_are_counted(api: RunningApi, own: httpx.Client) -> None:
    film = media.video()
    assert own.post("/v2a", files={"file": ("a.mp4", film)}).status_code == 202
    assert own.post("/v2a", files={"file": ("a.mp4", b"nothing of the kind")}).status_code == 415
    assert own.post("/a2v", files={"file": ("a.mp4", film)}).status_code == 422
    found = scraped(f"{api.url}/metrics")
    assert found['duet_uploads_total{kind="v2a"}'] == 1
    assert found['duet_upload_bytes_sum{kind="v2a"}'] == len(film)
    assert found['duet_uploads_refused_total{kind="v2a",reason="unsupported_media"}'] == 1
    assert found['duet_uploads_refused_total{kind="a2v",reason="no_audio_track"}'] == 1
    assert found['duet_jobs_accepted_total{kind="v2a",priority="normal"}'] == 1


def test_a_repeated_request_is_not_counted_as_a_job(api: RunningApi, own: httpx.Client) -> None:
    for _ in range(2):
        own.post("/generate", json={"seed": 1, "priority": "high"}, headers={"Idempotency-Key": "once"})
    assert scraped(f"{api.url}/metrics")['duet_jobs_accepted_total{kind="generate",priority="high"}'] == 1


def test_queue_metrics_agree_with_redis(api: RunningApi, own: httpx.Client, store: JobStore) -> None:
    jobs = [own.post("/generate", json={"priority": each}).json()["id"] for each in ("low", "high", "high")]
    store.announce_worker("a worker")
    store.announce_worker("a dead one", -1)
    time.sleep(1)
    found = scraped(f"{api.url}/metrics")
    assert [found[f'duet_queue_length{{priority="{each}"}}'] for each in ("low", "normal", "high")] == [1, 0, 2]
    assert 1 <= found["duet_queue_oldest_seconds"] < 30
    assert (found["duet_workers"], found["duet_jobs_held"], found["duet_redis_up"]) == (1, 0, 1)

    claimed = store.claim(jobs[1], "a worker")
    assert claimed is not None
    store.start(jobs[1], claimed.attempt)
    own.post(f"/jobs/{jobs[2]}/cancel")
    found = scraped(f"{api.url}/metrics")
    assert found['duet_queue_length{priority="high"}'] == 0
    assert found["duet_jobs_held"] == 1
    shown = {status: found[f'duet_jobs{{kind="generate",status="{status}"}}'] for status in Status}
    assert shown == {"queued": 1, "in_progress": 1, "completed": 0, "failed": 0, "canceled": 1}

    for job in jobs:
        own.delete(f"/jobs/{job}")
    found = scraped(f"{api.url}/metrics")
    assert [value for name, value in found.items() if name.startswith(("duet_jobs{", "duet_queue"))] == [0] * 24


def test_clients_that_follow_a_job_are_counted(api: RunningApi, own: httpx.Client) -> None:
    job = own.post("/generate").json()["id"]
    with own.stream("GET", f"/jobs/{job}/events") as events:
        lines = events.iter_lines()  # kept: with the last reference to it the stream would be closed
        next(lines)
        assert scraped(f"{api.url}/metrics")["duet_event_streams"] == 1
    until(lambda: scraped(f"{api.url}/metrics")["duet_event_streams"] == 0, "the client has gone")


@pytest.mark.timed
def test_an_unavailable_redis_is_reported_at_once(run_api: RunApi, own_redis: RedisServer, settings: Settings) -> None:
    api = run_api(settings.model_copy(update={"redis_url": own_redis.url}))
    own_redis.kill()
    began = time.monotonic()
    found = scraped(f"{api.url}/metrics")
    assert time.monotonic() - began < 2
    assert found["duet_redis_up"] == 0
    assert "duet_workers" not in found, "nothing is known of them"
    own_redis.start()
    until(lambda: scraped(f"{api.url}/metrics")["duet_redis_up"] == 1, "Redis is back")


@pytest.mark.timed
def test_a_silent_redis_does_not_delay_a_scrape(run_api: RunApi, settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        api = run_api(settings.model_copy(update={"redis_url": url}))
        for _ in range(3):
            began = time.monotonic()
            assert scraped(f"{api.url}/metrics")["duet_redis_up"] == 0
            assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("accept", "type_"),
    [
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        (
            "application/openmetrics-text;version=1.0.0;q=0.5",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
        ("text/plain;version=;escaping=x, application/;;", "text/plain; version=0.0.4; charset=utf-8"),
    ],
)
def test_the_format_follows_the_accept_header(client: httpx.Client, accept: str, type_: str) -> None:
    answer = client.get("/metrics", headers={"Accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (200, type_)
    assert answer.text.endswith("# EOF\n") == type_.startswith("application/openmetrics")


def test_the_separate_port_needs_no_key_and_serves_only_metrics(run_api: RunApi, settings: Settings) -> None:
    port = free_port()
    api = run_api(with_keys(settings, metrics_port=port))
    with client_of(api, None) as stranger, client_of(api, "alice") as alice:
        assert stranger.get("/metrics").status_code == 401
        assert alice.get("/metrics").status_code == 200
        job = alice.post("/generate").json()["id"]
    found = scraped(f"http://127.0.0.1:{port}/metrics")
    assert found['duet_jobs_accepted_total{kind="generate",priority="normal"}'] == 1
    other = httpx.get(f"http://127.0.0.1:{port}/jobs/{job}", trust_env=False)
    assert job not in other.text
    assert "alice" not in other.text


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "DUET_METRICS_PORT is {port}: another program uses that port of 127.0.0.1."),
        ({"DUET_METRICS_HOST": "192.0.2.1"}, "DUET_METRICS_HOST is '192.0.2.1': cannot listen there"),
    ],
)
@pytest.mark.parametrize("command", ["api", "worker", "webhooks"])
def test_an_unavailable_port_ends_the_process_with_a_message(
    settings: Settings, command: str, changes: dict[str, str], sentence: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        environment = {"DUET_METRICS_PORT": str(port), "DUET_REDIS_URL": settings.redis_url, **changes}
        run = subprocess.run(
            [sys.executable, "-m", "duet", command],
            env={**os.environ, "DUET_PORT": "0", **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert run.returncode == 1
    assert sentence.format(port=port) in run.stderr
    assert "Traceback" not in run.stderr


@contextmanager
def _port_with_free_neighbours(place: int) -> Iterator[int]:
    """The port at `place` of three in a row: this one is taken, the other two are free."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            try:
                for other in {port - place + k for k in range(3)} - {port}:
                    socket.create_server(("127.0.0.1", other)).close()
            except OSError:
                continue
            yield port
            return


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_embedded_stack_uses_one_port_per_process_or_names_the_unavailable_one(
    settings: Settings, place: int
) -> None:
    with _port_with_free_neighbours(place) as port:
        asked = settings.model_copy(update={"port": 0, "metrics_port": port - place})
        with pytest.raises(local.CannotServe, match=f"DUET_METRICS_PORT is {port - place}: .* {port} is not available"):
            local.serve(asked)
    with pytest.raises(local.CannotServe, match="the highest port is 65535"):
        local.serve(settings.model_copy(update={"port": 0, "metrics_port": 65534}))


@contextmanager
def api_processes(
    settings: Settings, metrics_port: int
) -> Iterator[tuple[str, Callable[[int], subprocess.Popen[bytes]]]]:
    """The address of two API processes on one socket, as `duet serve` starts them, and what starts one of them."""
    with ExitStack() as running, socket.create_server(("127.0.0.1", 0)) as listener:
        environment = {
            "DUET_REDIS_URL": settings.redis_url,
            "DUET_DATA": str(settings.data),
            "DUET_METRICS_PORT": str(metrics_port),
        }

        def start(number: int) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-m", "duet", "api", "--descriptor", str(listener.fileno())]
            process = subprocess.Popen(
                [*command, "--number", str(number)],
                env={**os.environ, **environment},
                pass_fds=(listener.fileno(),),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            running.callback(process.wait, 20)
            running.callback(process.send_signal, signal.SIGTERM)
            return process

        yield f"http://127.0.0.1:{listener.getsockname()[1]}", start


@pytest.mark.slow
def test_several_processes_count_together_also_after_one_dies(settings: Settings) -> None:
    port = free_port()
    metrics = f"http://127.0.0.1:{port}/metrics"
    with api_processes(settings, port) as (url, start):
        processes = [start(number) for number in range(2)]
        sent = 0

        def counted() -> float:
            return scraped(metrics).get('duet_http_requests_total{method="GET",route="/models",status="200"}', 0)

        def ask(times: int) -> None:
            nonlocal sent
            for _ in range(times):  # a new connection each time: either process may take it
                httpx.get(f"{url}/models", trust_env=False, timeout=30).raise_for_status()
                sent += 1

        ask(20)
        until(lambda: _listeners(port) == 2, "both serve metrics", 30)
        ask(20)
        assert {counted() for _ in range(10)} == {sent}
        processes[0].kill()
        processes[0].wait()
        ask(5)
        assert counted() == sent
        start(0)
        until(lambda: _listeners(port) == 2, "both serve metrics again", 30)
        ask(20)
        assert {counted() for _ in range(10)} == {sent}
        folder = settings.temporary / "metrics"
        assert len(list(folder.iterdir())) == 2 * 3, "files are named for the number, not for the process"
        assert scraped(metrics)["duet_event_streams"] == 0


def _listeners(port: int) -> int:
    """Sockets that listen on `port`, by /proc/net/tcp."""
    table = Path("/proc/net/tcp").read_text()
    return len(re.findall(rf"^\s*\d+: \w+:{port:04X} \w+:\w+ 0A ", table, re.MULTILINE))
