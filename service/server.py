"""uvicorn with the limits of the settings, and with a shutdown that does not wait for event streams."""

from __future__ import annotations

import logging
import math
import resource
import socket
import time
from contextlib import suppress

import uvicorn
from fastapi import FastAPI

from service.connections import limited
from service.settings import Settings

MAX_OPEN_FILES = 65_536
_INVALID = "Invalid HTTP request received."
_LOG_INTERVAL_S = 10.0


class _Throttle(logging.Filter):
    """Lets uvicorn's warning about an invalid request pass at most once in _LOG_INTERVAL_S: any client can cause it."""

    def __init__(self) -> None:
        super().__init__()
        self._passed = -math.inf

    def filter(self, record: logging.LogRecord) -> bool:
        if record.msg != _INVALID:
            return True
        now = time.monotonic()
        if now - self._passed < _LOG_INTERVAL_S:
            return False
        self._passed = now
        return True


_throttle = _Throttle()


def raise_open_files_limit() -> None:
    """Raise this process' limit on open files as far as its hard limit allows, up to MAX_OPEN_FILES.

    Each connection is an open file. The usual limit of 1024 would be used up by the connections of three addresses.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # macOS has a limit below its hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """uvicorn's configuration for the API."""
    logging.getLogger("uvicorn.error").addFilter(_throttle)
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,  # service.api.proxies, by DUET_TRUSTED_PROXIES
        timeout_graceful_shutdown=5,
        timeout_keep_alive=settings.keep_alive_s,
        http=limited(settings),
        ws="none",  # its protocol would replace the limited one
    )


class Server(uvicorn.Server):
    """Serves `app`, which is also the app of `config`."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the event streams, which would last as long as their jobs, then everything else. Clients reconnect."""
        self._app.state.services.events.close()
        await super().shutdown(sockets)
