"""Requests that two servers could understand differently (RFC 9112, sections 6.3 and 11.2). The request hidden in them
must not be answered."""

from __future__ import annotations

from functools import partial

from tests.hostile.attack import Attack, Target
from tests.hostile.wire import HEALTH, REQUEST, Wire

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def smuggled(lines: bytes, target: Target, opening: bytes = REQUEST) -> str | None:
    """A body of which one reading is `{}`, with another request behind it."""
    with Wire(target.port, opening + lines + b"\r\n\r\n2\r\n{}\r\n0\r\n\r\n" + HIDDEN) as wire:
        wire.receive(2)
    return None if wire.statuses == [400] and wire.ended else f"answered {wire.statuses}"


def refused(request: bytes, target: Target) -> str | None:
    with Wire(target.port, request) as wire:
        wire.receive(2)
    return None if wire.statuses == [400] and wire.ended else f"answered {wire.statuses}: {wire.received[:200]!r}"


def accepted(request: bytes, statuses: list[int], closes: bool, target: Target) -> str | None:
    with Wire(target.port, request) as wire:
        wire.receive(1)
    return None if wire.statuses == statuses and wire.ended is closes else f"answered {wire.statuses}, {wire.ended}"


FRAMINGS = {
    "a length and chunks": b"Content-Length: 2\r\nTransfer-Encoding: chunked",
    "chunks and a length": b"Transfer-Encoding: chunked\r\nContent-Length: 2",
    "two lengths": b"Content-Length: 2\r\nContent-Length: 12",
    "the same length twice": b"Content-Length: 2\r\nContent-Length: 2",
    "a list of lengths": b"Content-Length: 2, 2",
    "a length with a sign": b"Content-Length: +2",
    "a negative length": b"Content-Length: -2",
    "a hexadecimal length": b"Content-Length: 0x2",
    "a length with a space inside": b"Content-Length: 1 2",
    "an empty length": b"Content-Length:",
    "a space before the colon": b"Transfer-Encoding : chunked",
    "an unknown coding": b"Transfer-Encoding: xchunked",
    "chunked that is not last": b"Transfer-Encoding: chunked, identity",
    "chunked twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "chunked in one header of two": b"Transfer-Encoding: identity\r\nTransfer-Encoding: cow",
    "a folded coding": b"Transfer-Encoding:\r\n chunked",
    "a vertical tab before chunked": b"Transfer-Encoding: \x0bchunked",
    "a line that ends with a carriage return": b"X: 1\rContent-Length: 2\r\nTransfer-Encoding: chunked",
    "a zero byte in a header": b"X: \x00\r\nContent-Length: 2",
}
REQUESTS = {
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: 127.0.0.1\r\n\r\n",
    "a space in the path": b"GET /health z HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "a path beyond ASCII": b"GET /\xc3\xa4 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "HTTP/2 without asking": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/9.9": b"GET /healthz HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n",
    "a chunk size with 0x": REQUEST + b"Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n",
    "a negative chunk size": REQUEST + b"Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
    "a chunk without its line end": REQUEST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}0\r\n\r\n",
    "chunked in HTTP/1.0": REQUEST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "CONNECT": b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n" + HIDDEN,
    "noise": bytes(range(256)) * 4,
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
}
OLD = HEALTH.replace(b"1.1", b"1.0")
ALLOWED = {
    "HTTP/1.0": (OLD, [200], True),
    "HTTP/1.0 without a host": (b"GET /healthz HTTP/1.0\r\n\r\n", [421], True),  # keys are off: only loopback names
    "HTTP/1.0 pipelined": (OLD + HIDDEN, [200], True),
    "a request after Connection: close": (HEALTH[:-2] + b"Connection: close\r\n\r\n" + HIDDEN, [200], True),
    "an upgrade that is not offered": (HEALTH[:-2] + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n", [200], False),
}

ATTACKS = [
    *(Attack("smuggling", name, partial(smuggled, lines)) for name, lines in FRAMINGS.items()),
    *(Attack("smuggling", name, partial(refused, request)) for name, request in REQUESTS.items()),
    *(Attack("smuggling", name, partial(accepted, *each)) for name, each in ALLOWED.items()),
]
