"""Serves over standard input and output, or over streamable HTTP.

Over HTTP the service's key is used for every client, so only this machine is served without a token, and only under its
own name: a page of another site must not reach the server by DNS rebinding.
"""

from __future__ import annotations

import hmac
import socket
from typing import Any

import uvicorn
from mcp.server import Server
from mcp.server.stdio import stdio_server
from mcp.server.transport_security import TransportSecuritySettings
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from duet.mcp.sources import MAX_DATA
from service.settings import is_loopback

PATH = "/mcp"

MIN_TOKEN = 16
"""Characters."""

MAX_BODY = 2 * (MAX_DATA * 4 // 3) + 2**20
"""Bytes of a request: a file and a mask as base64, and the other arguments."""

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


async def serve_stdio(server: Server[Any]) -> None:
    """Serve the process that has started this one, until standard input ends."""
    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 selects a free one. Raises OSError."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return socket.create_server(address[:2], family=family)


async def serve_http(server: Server[Any], listener: socket.socket, host: str, token: str | None) -> None:
    """Serve at PATH on the socket until the process is stopped."""
    config = uvicorn.Config(
        http_app(server, host, token), log_level="warning", access_log=False, timeout_graceful_shutdown=3, lifespan="on"
    )
    await uvicorn.Server(config).serve([listener])


def http_app(server: Server[Any], host: str, token: str | None) -> ASGIApp:
    """The application for a server that listens on `host`. Raises ValueError for another address than loopback without
    a token."""
    local = is_loopback(host)
    if not local and token is None:
        raise ValueError(f"{host} can be reached from other machines, and there is no token")
    names = sorted({*_LOOPBACK, f"[{host}]" if ":" in host else host})
    security = TransportSecuritySettings(
        enable_dns_rebinding_protection=local,
        allowed_hosts=[f"{name}{port}" for name in names for port in ("", ":*")],
        allowed_origins=[f"http://{name}{port}" for name in names for port in ("", ":*")],
    )
    app = server.streamable_http_app(
        streamable_http_path=PATH, transport_security=security, max_request_body_size=MAX_BODY
    )
    return app if token is None else _with_token(app, token)


def _with_token(app: ASGIApp, token: str) -> ASGIApp:
    """The application for requests with `Authorization: Bearer TOKEN`; others get a 401."""
    expected = f"Bearer {token}".encode()
    refusal = JSONResponse(
        {"error": "invalid_token", "error_description": "This MCP server requires its token as a bearer token."},
        401,
        {"WWW-Authenticate": "Bearer"},
    )

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, expected):
                await refusal(scope, receive, send)
                return
        await app(scope, receive, send)

    return guarded
