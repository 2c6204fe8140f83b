"""The process of the API."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest

from service.settings import Settings
from tests.conftest import RunningApi

_SCRIPT = """
import resource
from service.server import raise_open_files_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 128))
raise_open_files_limit()
print(resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_the_limit_on_open_files_is_raised_as_far_as_allowed() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "(128, 128)"


def test_invalid_requests_do_not_fill_the_log(
    run_api: Callable[[Settings], RunningApi], settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    api = run_api(settings)
    with caplog.at_level(logging.WARNING, "uvicorn.error"):
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", api.port), timeout=20) as client:
                client.sendall(b"noise\r\n\r\n")
                assert client.recv(1000).startswith(b"HTTP/1.1 400 ")
    assert sum("Invalid HTTP request" in record.getMessage() for record in caplog.records) <= 2
