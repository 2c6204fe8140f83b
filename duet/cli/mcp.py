"""`duet mcp`: a server of the Model Context Protocol, for agents."""

from __future__ import annotations

import os
from typing import Annotated

from duet.cli.exit_status import FAILED, fail, usage_error
from duet.cli.options import ADDRESS, ServerAddress, option, within
from duet.cli.output import echo

TOKEN = "DUET_MCP_TOKEN"  # a variable: other users of the machine can see the options of a command
PORT = 8200
OVER_HTTP = "Over HTTP"


def mcp(
    *,
    server: ServerAddress = ADDRESS,
    embed_bytes: Annotated[
        int,
        option("Most bytes of media in a result; larger files are links only; default 524288.", validator=within(0)),
    ] = 512 * 1024,
    private_urls: Annotated[
        bool, option("Files may also be fetched from private addresses, such as those of your network.")
    ] = False,
    http: Annotated[
        bool, option("Serve streamable HTTP instead of standard input and output.", group=OVER_HTTP)
    ] = False,
    host: Annotated[
        str, option("Address to listen on; default 127.0.0.1. Others require DUET_MCP_TOKEN.", group=OVER_HTTP)
    ] = "127.0.0.1",
    port: Annotated[
        int,
        option("Port; default 8200; 0 selects a free one.", validator=within(0, 65535), group=OVER_HTTP),
    ] = PORT,
) -> None:
    """Serve agents by the Model Context Protocol (MCP): Duet's jobs as tools, with the service at --url."""
    import logging
    import sys

    import anyio

    from duet.client import AsyncDuet, RetryPolicy
    from duet.mcp import transports
    from duet.mcp.server import Options, create_server
    from service.settings import is_loopback

    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    token = os.environ.get(TOKEN) or None
    if token is not None and not (len(token) >= transports.MIN_TOKEN and token.isascii() and token.isprintable()):
        raise usage_error(TOKEN, f"needs at least {transports.MIN_TOKEN} printable ASCII characters")
    if http and token is None and not is_loopback(host):
        raise usage_error("--host", f"{host} can be reached from other machines: set {TOKEN}, which clients then send")

    async def serve() -> None:
        try:
            duet = AsyncDuet(server.url, server.key, RetryPolicy((0.2, 0.5, 1.0)))
        except ValueError as error:
            raise usage_error("--url or --key", str(error)) from error
        async with duet:
            made = create_server(duet, Options(not http, embed_bytes, private_urls))
            if not http:
                await transports.serve_stdio(made)
                return
            try:
                listener = transports.listen(host, port)
            except OSError as error:
                raise fail(FAILED, f"Cannot listen on {host} port {port}: {error.strerror or error}") from error
            with listener:
                shown = f"[{host}]" if ":" in host else host
                echo(f"MCP server at http://{shown}:{listener.getsockname()[1]}{transports.PATH}", err=True)
                await transports.serve_http(made, listener, host, token)

    anyio.run(serve)
