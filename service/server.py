"""uvicorn, except that clients who follow jobs do not hold up its end: their streams would last as long as the jobs."""

from __future__ import annotations

import socket

import uvicorn
from fastapi import FastAPI


class Server(uvicorn.Server):
    """Serves `app`, which is also that of `config`."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close every stream of events, then what else is open: the clients come back, to us or to another."""
        self._app.state.services.events.close()
        await super().shutdown(sockets)
