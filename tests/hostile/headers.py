"""Requests whose headers, trailers or framing do not end. The server must end the connection soon."""

from __future__ import annotations

import time
from functools import partial

from tests.hostile.attack import Attack, Target
from tests.hostile.wire import HEALTH, REQUEST, Wire

GENEROUS = 16 * 2**20
"""Bytes that may leave the client before it notices the end: what the kernel's buffers hold, and some more."""

CHUNKED = REQUEST + b"Transfer-Encoding: chunked\r\n\r\n"


def endless(opening: bytes, piece: bytes, target: Target) -> str | None:
    """Something without an end after `opening`, on one connection after the other."""
    deadline = time.monotonic() + target.seconds
    while time.monotonic() < deadline:
        with Wire(target.port, opening) as wire:
            sent = wire.flood(piece, target.seconds)
            wire.receive(1)
        if sent >= GENEROUS:
            return f"took {sent / 2**20:.0f} MiB"
        if not wire.ended:
            return f"did not end the connection after {sent} bytes"
    return None


def counted(request: bytes, target: Target) -> str | None:
    """A whole request that is too large."""
    with Wire(target.port, request) as wire:
        wire.receive(3)
    refused = wire.statuses in ([400], [413], [414], [431]) or (wire.ended and not wire.statuses)
    return None if refused else f"answered {wire.statuses}"


def at_one_byte_a_second(opening: bytes, target: Target) -> str | None:
    """A header that goes on at one byte a second: the limit is on the time until all headers have arrived."""
    began = time.monotonic()
    with Wire(target.port, opening) as wire:
        while time.monotonic() < began + 3 * target.header_timeout + 5:
            wire.receive(1)
            if wire.ended or not wire.send(b"x"):
                break
    if not wire.ended:
        return "kept the connection"
    return None if wire.statuses[-1:] == [408] else f"answered {wire.statuses}"


OPENINGS = {
    "header lines": (REQUEST, b"X-Many: 1\r\n" * 1000),
    "one header": (REQUEST + b"X: ", b"y" * 2**16),
    "header name": (REQUEST, b"n" * 2**16),
    "folded header": (REQUEST + b"X: 1\r\n", b" more\r\n" * 1000),
    "request line": (b"GET /", b"a" * 2**16),
    "query": (b"GET /healthz?", b"a=1&" * 2**14),
    "method": (b"", b"G" * 2**16),
    "empty lines before a request": (b"", b"\r\n" * 2**15),
    "second request": (HEALTH + REQUEST, b"X-Many: 1\r\n" * 1000),
}
TRAILERS = {
    "trailer lines": (CHUNKED + b"2\r\n{}\r\n0\r\n", b"X-Many: 1\r\n" * 1000),
    "one trailer": (CHUNKED + b"2\r\n{}\r\n0\r\nX: ", b"y" * 2**16),
    "chunk extension": (CHUNKED + b"2;x=", b"y" * 2**16),
    "chunk extensions": (CHUNKED + b"2", b";name=value" * 1000),
    "zeros before a chunk's size": (CHUNKED, b"0" * 2**16),
}
WHOLE = {
    "10,000 headers": REQUEST + b"".join(b"X-%d: 1\r\n" % number for number in range(10_000)) + b"\r\n",
    "101 headers": REQUEST + b"".join(b"X-%d: 1\r\n" % number for number in range(99)) + b"\r\n",
    "one header of 1 MiB": REQUEST + b"X: " + b"y" * 2**20 + b"\r\n\r\n",
    "a path of 1 MiB": b"GET /" + b"a" * 2**20 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
}
CHUNKS = {
    "chunk of 2^63 bytes": CHUNKED + b"8000000000000000\r\n{}",
    "chunk of 2^64 - 1 bytes": CHUNKED + b"ffffffffffffffff\r\n{}",
    "chunk of 2^64 bytes": CHUNKED + b"10000000000000000\r\n{}",
    "body of 10^30 bytes": REQUEST + b"Content-Length: 1" + b"0" * 30 + b"\r\n\r\n{}",
    "body of 2^62 bytes": REQUEST + b"Content-Length: 4611686018427387904\r\n\r\n{}",
}


def claimed(request: bytes, target: Target) -> str | None:
    """A body that claims to be larger than allowed is refused by its claim, or when it grows too large."""
    with Wire(target.port, request) as wire:
        wire.flood(b"x" * 2**16, target.seconds)
        wire.receive(1)
    refused = wire.statuses in ([400], [413])
    return None if refused or (wire.ended and not wire.statuses) else f"answered {wire.statuses}"


def tiny_chunks(target: Target) -> str | None:
    """A body in chunks of one byte, each with an extension of 1,000 bytes: refused, or read to the limit of a body."""
    with Wire(target.port, CHUNKED) as wire:
        wire.flood((b"1;x=" + b"y" * 1000 + b"\r\n \r\n") * 60, target.seconds)
        wire.receive(1)
    return f"answered {wire.statuses}" if 500 in wire.statuses or 202 in wire.statuses else None


ATTACKS = [
    *(Attack("headers", f"endless {name}", partial(endless, *each)) for name, each in OPENINGS.items()),
    *(Attack("headers", name, partial(counted, request)) for name, request in WHOLE.items()),
    Attack("headers", "1 byte a second", partial(at_one_byte_a_second, REQUEST + b"X: ")),
    Attack("headers", "1 byte a second in a second request", partial(at_one_byte_a_second, HEALTH + REQUEST)),
    *(Attack("trailers", f"endless {name}", partial(endless, *each)) for name, each in TRAILERS.items()),
    *(Attack("trailers", name, partial(claimed, request)) for name, request in CHUNKS.items()),
    Attack("trailers", "tiny chunks with long extensions", tiny_chunks),
]
