"""A real nginx in front of a real API."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.waiting import until

_CONFIG = """\
daemon off;
{user}
pid nginx.pid;
worker_processes 1;
error_log error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen 127.0.0.1:{port};
        {locations}
    }}
}}
"""


class Nginx:
    """nginx with these `location` blocks, on a port of its own. Skips the test if nginx is not installed."""

    def __init__(self, folder: Path, locations: str) -> None:
        program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
        if program is None:
            pytest.skip("nginx is not installed")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        folder.mkdir(parents=True, exist_ok=True)
        user = "user root;" if os.geteuid() == 0 else ""  # its worker must write to `folder`
        (folder / "nginx.conf").write_text(_CONFIG.format(user=user, port=port, locations=locations))
        self.url = f"http://127.0.0.1:{port}"
        self._log = folder / "error.log"
        self._process = subprocess.Popen([program, "-p", str(folder), "-c", "nginx.conf", "-e", "error.log"])
        until(self._listens, "nginx listens")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)

    def _listens(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        try:
            httpx.get(f"{self.url}/none", trust_env=False)
        except httpx.ConnectError:
            return False
        return True
