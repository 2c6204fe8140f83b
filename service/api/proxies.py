"""Requests that come through a reverse proxy: path prefix, host, scheme and client address as the user has them."""

from __future__ import annotations

from ipaddress import ip_address

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from service.api.hosts import is_host, known_host
from service.setting_types import path_prefix
from service.settings import Settings
from service.trusted_proxies import TrustedProxies


class ForwardedRequest:
    """ASGI middleware, outside all others: makes the scope that of the request which the proxy received.

    `root_path` becomes the prefix, and `path` begins with it (ASGI), whether the proxy has stripped it or not. The
    prefix is X-Forwarded-Prefix, or DUET_ROOT_PATH without it. The X-Forwarded headers count only if the connection
    comes from DUET_TRUSTED_PROXIES; a value that is not valid is ignored.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._proxies = TrustedProxies(settings)
        # Sets the client (X-Forwarded-For) and the scheme (X-Forwarded-Proto) in the scope.
        networks = [str(network) for network in self._proxies.networks]
        self._set_client_and_scheme = ProxyHeadersMiddleware(_nothing, networks)  # type: ignore[arg-type]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            prefix = self._settings.root_path
            if scope.get("client") and scope["client"][0] in self._proxies:
                headers = Headers(scope=scope)
                prefix = path_prefix(_only(headers, "x-forwarded-prefix") or prefix) or prefix
                self._set_host(scope, headers)
                proxy = scope["client"]
                await self._set_client_and_scheme(scope, receive, send)  # type: ignore[arg-type]
                if not _is_address(*scope["client"]):
                    scope["client"] = proxy
            if prefix:
                _set_prefix(scope, prefix)
        await self._app(scope, receive, send)

    def _set_host(self, scope: Scope, headers: Headers) -> None:
        """Use X-Forwarded-Host, but only if the request's own Host is known: a page that reaches the proxy by DNS
        rebinding could send any header."""
        host = _only(headers, "x-forwarded-host")
        if is_host(host) and known_host(headers.get("host", ""), self._settings):
            MutableHeaders(scope=scope)["host"] = host


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    pass


def _is_address(host: str, port: int) -> bool:
    """Whether this is an IP address without a zone, which means nothing on another machine, and a port."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return "%" not in host and 0 <= port <= 65_535


def _only(headers: Headers, name: str) -> str:
    """The value of a header that came once; empty if it did not."""
    values = headers.getlist(name)
    return values[0].strip() if len(values) == 1 else ""


def _set_prefix(scope: Scope, prefix: str) -> None:
    scope["root_path"] = prefix
    if scope["path"] != prefix and not scope["path"].startswith(f"{prefix}/"):
        scope["path"] = prefix + scope["path"]
        scope["raw_path"] = prefix.encode() + scope.get("raw_path", b"")
