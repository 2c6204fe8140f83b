"""uvicorn with the limits of the settings, and with a shutdown that does not wait for event streams."""

from __future__ import annotations

import socket

import uvicorn
from fastapi import FastAPI

from service.connections import limited
from service.settings import Settings


def server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """uvicorn's configuration for the API."""
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
