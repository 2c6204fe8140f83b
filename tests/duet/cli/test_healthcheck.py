"""`python -m service.healthcheck`, the health check of the containers."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from service.healthcheck import OVERDUE
from service.jobs.connection import connect
from service.jobs.deliveries import DUE
from tests.duet.cli.conftest import Server, environment


def check(what: str, server: Server, **settings: str) -> subprocess.CompletedProcess[str]:
    own = {"DUET_REDIS_URL": server.settings.redis_url, "DUET_PORT": str(server.api.port)} | settings
    return subprocess.run(
        [sys.executable, "-m", "service.healthcheck", what],
        env=environment(**own), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_the_api_is_healthy_without_a_worker(idle_server: Server) -> None:
    assert check("api", idle_server).returncode == 0


def test_an_api_that_does_not_respond_is_unhealthy(idle_server: Server) -> None:
    answer = check("api", idle_server, DUET_PORT="9")
    assert answer.returncode == 1
    assert "the API does not answer" in answer.stderr


@pytest.mark.slow
def test_a_worker_is_healthy_while_its_consumer_responds(idle_server: Server) -> None:
    assert "no worker of this machine has a heartbeat" in check("worker", idle_server).stderr
    idle_server.work(0.02)
    assert check("worker", idle_server).returncode == 0
    process = idle_server.workers[0].process
    process.send_signal(signal.SIGSTOP)
    try:
        answer = check("worker", idle_server)
    finally:
        process.send_signal(signal.SIGCONT)
    assert answer.returncode == 1
    assert "does not answer" in answer.stderr


def test_the_webhook_sender_is_unhealthy_if_a_delivery_is_long_overdue(idle_server: Server) -> None:
    assert check("webhooks", idle_server).returncode == 0
    client = connect(idle_server.settings)
    seconds, _ = client.time()  # type: ignore[misc]
    client.zadd(DUE, {"job_a": (seconds - OVERDUE / 2) * 1000})
    assert check("webhooks", idle_server).returncode == 0
    client.zadd(DUE, {"job_a": (seconds - OVERDUE - 5) * 1000})
    answer = check("webhooks", idle_server)
    assert answer.returncode == 1
    assert "a webhook has been due for" in answer.stderr


def test_everything_is_unhealthy_without_redis(idle_server: Server) -> None:
    for what in ("worker", "webhooks"):
        answer = check(what, idle_server, DUET_REDIS_URL="redis://127.0.0.1:9/0")
        assert answer.returncode == 1
        assert "Redis does not answer" in answer.stderr
