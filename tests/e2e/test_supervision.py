"""`duet serve` starts, restarts and stops all processes, and leaves none behind."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import Serve, alive, finished
from tests.waiting import until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc"),
]

Start = Callable[..., Serve]
QUICK = {"steps": 2, "super_resolution": False, "seed": 1}


def test_jobs_and_results_survive_a_restart(start_serve: Start, tmp_path: Path) -> None:
    first = start_serve(tmp_path / "data")
    with first.ready() as client:
        assert f"curl -s {client.base_url}".rstrip("/") in first.output
        assert first.lines[0].endswith(f"stored in {tmp_path / 'data'}")
        assert first.lines[1].endswith(f"Press Ctrl-C to stop, or: kill {first.process.pid}")
        done = finished(client, client.post("/generate", json=QUICK).headers["Location"])
        running = client.post("/generate", json=QUICK | {"steps": 300}).json()["urls"]["self"]
        waiting = client.post("/generate", json=QUICK).json()["urls"]["self"]
        until(lambda: client.get(running).json()["step"], "the long job runs", 60)
        clip = client.get(done["outputs"][0]["files"]["video.mp4"]).content
    family = first.family()
    assert len(family) >= 4
    assert first.stop() == 0
    assert alive(family) == []
    ends = [line for line in first.lines if line.startswith("duet")]
    assert "Stopped" in ends[-1]
    assert not any(line.startswith("duet") and "killed" in line for line in first.lines)

    second = start_serve(tmp_path / "data")
    with second.ready() as client:
        assert client.get(done["urls"]["self"]).json() == done
        assert client.get(done["outputs"][0]["files"]["video.mp4"]).content == clip
        assert finished(client, running)["status"] == "completed"
        assert finished(client, waiting)["status"] == "completed"


def test_killed_processes_are_restarted_and_no_job_is_lost(start_serve: Start, tmp_path: Path) -> None:
    serve = start_serve(tmp_path / "data")
    with serve.ready() as client:
        job = client.post("/generate", json=QUICK | {"steps": 250}).json()["urls"]["self"]
        until(lambda: client.get(job).json()["step"], "the job runs", 60)
        before = serve.processes()
        for name in ("worker", "api", "webhooks", "redis"):
            os.kill(before[name], signal.SIGKILL)

        def answer() -> dict | None:
            try:
                got = client.get(job)
            except httpx.HTTPError:
                return None
            return got.json() if got.is_success and got.json()["status"] in ("completed", "failed") else None

        done = until(answer, "the job has ended", 120)
        assert (done["status"], done["attempt"]) == ("completed", 2)
        after = serve.processes()
        assert set(after) == {"redis", "api", "worker", "webhooks"}
        assert not set(after.values()) & set(before.values())
    assert sum("restarting it" in line for line in serve.lines) >= 4


def test_no_process_outlives_a_killed_command(start_serve: Start, tmp_path: Path) -> None:
    first = start_serve(tmp_path / "data")
    first.ready().close()
    family = first.family()
    first.process.kill()
    until(lambda: alive(family) == [], "all processes are gone")
    start_serve(tmp_path / "data").ready().close()


def test_a_data_folder_in_use_is_refused(start_serve: Start, tmp_path: Path) -> None:
    first = start_serve(tmp_path / "data")
    first.ready().close()
    second = start_serve(tmp_path / "data")
    assert second.wait() == 1
    assert "already uses the data folder" in second.output
    assert str(first.process.pid) in second.output
    assert len(second.lines) == 1
    assert first.process.poll() is None


def test_a_port_in_use_is_refused(start_serve: Start, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        serve = start_serve(tmp_path / "data", "--port", str(port))
        assert serve.wait() == 1
    assert serve.lines == [
        f"Port {port} on 127.0.0.1 is in use by another program. "
        f"Stop it, or choose another port: duet serve --port {port + 1}, or DUET_PORT={port + 1} make serve."
    ]


def test_a_public_address_without_keys_is_refused(start_serve: Start, tmp_path: Path) -> None:
    serve = start_serve(tmp_path / "data", "--host", "0.0.0.0")
    assert serve.wait() == 1
    assert "this machine only" in serve.output
