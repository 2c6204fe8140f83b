"""Limits on connections and requests, which uvicorn and httptools do not have.

Without them one connection with endless headers or trailers fills the memory, and connections that never complete a
request use up the file descriptors.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from http import HTTPStatus
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.log import log
from service.settings import Settings
from service.trusted_proxies import TrustedProxies

MAX_HEADER_BYTES = 64 * 1024
"""Bytes of a request line and its headers, of the trailers, and of the framing between two pieces of a body."""

MAX_HEADERS = 100
MAX_PIPELINED = 32
"""Requests of one connection that wait for the answer to the one before them. uvicorn has no limit: it reads on after
each answer, so a client that reads slowly could make it keep any number."""

_LARGE_HEADERS = 431, b"The headers of this request are too large."
_AMBIGUOUS = 400, b"This request needs one Host, and no Transfer-Encoding in HTTP/1.0."
_PIPELINED = 429, b"Too many requests were sent without waiting for their answers."
_LOG_INTERVAL_S = 10.0


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with limits. `limited(settings)` makes the class for uvicorn."""

    header_timeout: ClassVar[float]
    max_per_address: ClassVar[int]
    proxies: ClassVar[TrustedProxies]
    _per_address: ClassVar[Counter[str]]
    _logged: ClassVar[float] = 0.0

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._address: str | None = None
        self._overhead = 0
        """Bytes received since the last piece of a body or the end of a request."""
        self._progress = False
        self._refusal: tuple[int, bytes] | None = None
        """Status and reason, once this connection is to be refused."""
        self._header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        address = self.client[0] if self.client else ""
        if self.max_per_address and address not in self.proxies:
            if self._per_address[address] >= self.max_per_address:
                self._refuse(503, b"Too many connections from this address.")
                return
            self._address = address
            self._per_address[address] += 1
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._headers_arrived()
        if self._address is not None:
            self._per_address[self._address] -= 1
            if not self._per_address[self._address]:
                del self._per_address[self._address]
            self._address = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._progress = False
        super().data_received(data)
        self._overhead = 0 if self._progress else self._overhead + len(data)
        if self.transport.is_closing():
            return
        if self._refusal is not None:
            self._refuse(*self._refusal)
        elif self._overhead > MAX_HEADER_BYTES:
            self._refuse(*_LARGE_HEADERS)

    # Once a request exceeds a limit, nothing more of this connection is served, including the rest of the same bytes.

    def on_message_begin(self) -> None:
        if self._refusal is None:
            super().on_message_begin()
            if self._header_timer is None:
                self._await_headers()

    def on_url(self, url: bytes) -> None:
        if self._refusal is None:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._refusal is None:
            super().on_header(name, value)
            if len(self.headers) > MAX_HEADERS:
                self._refusal = _LARGE_HEADERS

    def on_headers_complete(self) -> None:
        self._headers_arrived()
        if self._refusal is None and self._is_ambiguous():
            self._refusal = _AMBIGUOUS
        if self._refusal is None:
            super().on_headers_complete()
            if len(self.pipeline) > MAX_PIPELINED:
                self._refusal = _PIPELINED

    def on_body(self, body: bytes) -> None:
        self._progress = True
        if self._refusal is None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._progress = True
        if self._refusal is None:
            super().on_message_complete()

    def _is_ambiguous(self) -> bool:
        """Whether servers could understand the request differently, in ways that httptools lets pass (RFC 9112,
        sections 3.2 and 6.1)."""
        names = Counter(name for name, _ in self.headers)
        if self.parser.get_http_version() == "1.0":
            return names[b"host"] > 1 or names[b"transfer-encoding"] > 0
        return names[b"host"] != 1

    def _unsupported_upgrade_warning(self) -> None:
        """Silent: a server may ignore the header Upgrade, and any client can send it."""

    def _await_headers(self) -> None:
        self._header_timer = self.loop.call_later(self.header_timeout, self._too_slow)

    def _headers_arrived(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _too_slow(self) -> None:
        self._header_timer = None
        if not self.transport.is_closing():
            self._refuse(408, b"The headers of this request took too long.")

    def _refuse(self, status: int, reason: bytes) -> None:
        """Close the connection. A response is written only if none is under way."""
        self._headers_arrived()
        kind = type(self)
        if time.monotonic() - kind._logged > _LOG_INTERVAL_S:
            kind._logged = time.monotonic()
            log.warning("connection refused", status=status, reason=reason.decode(), client=self.client)
        if self.cycle is None or self.cycle.response_complete:
            phrase = HTTPStatus(status).phrase.encode()
            self.transport.write(
                b"HTTP/1.1 %d %b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n"
                b"Connection: close\r\n\r\n%b" % (status, phrase, len(reason), reason)
            )
            self.transport.close()
        else:
            self.transport.abort()


def limited(settings: Settings) -> type[LimitedProtocol]:
    """The protocol class with the limits of `settings`, for `uvicorn.Config(http=…)`."""
    limits = {
        "header_timeout": float(settings.header_timeout_s),
        "max_per_address": settings.max_connections_per_address,
        "proxies": TrustedProxies(settings),
        "_per_address": Counter[str](),
    }
    return type("LimitedProtocol", (LimitedProtocol,), limits)
