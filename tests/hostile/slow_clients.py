"""Clients that hold connections: they send slowly, read slowly, or say nothing. Others must not notice."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

from tests.hostile.attack import Attack, Target
from tests.hostile.wire import ATTACKER, HEALTH, OTHER_ATTACKERS, REQUEST, Wire

MANY = 200
"""Connections of an attack where their number is not the point."""

PUBLISH_INTERVAL = 0.2
"""Seconds between two events of a job, as a worker reports them."""


def hold(target: Target, count: int, opening: bytes, each_second: Callable[[Wire], object]) -> list[Wire]:
    """Open `count` connections and let each do something every second, for the time of the attack."""
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(target.port, opening, small_buffer=True)) for _ in range(count)]
        deadline = time.monotonic() + target.seconds
        while time.monotonic() < deadline:
            time.sleep(1)
            for wire in wires:
                each_second(wire)
    return wires


def headers(target: Target) -> str | None:
    hold(target, MANY, REQUEST + b"X: ", lambda wire: wire.send(b"y"))
    return None


def bodies(target: Target) -> str | None:
    """A body of which a byte comes every second; the largest rate that is refused is higher."""
    hold(target, MANY, REQUEST + b"Content-Length: 10000\r\n\r\n{", lambda wire: wire.send(b" "))
    return None


def uploads(target: Target) -> str | None:
    """The server has a place for each upload; those without one are told so at once."""
    opening = b"POST /v2a HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=XX\r\n"
    opening += (
        b'Content-Length: 1000000\r\n\r\n--XX\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    )
    wires = hold(target, MANY, opening, lambda wire: (wire.send(b" "), wire.receive(0)))
    return None if any(429 in wire.statuses for wire in wires) else "as many stalled uploads as anybody likes"


def readers(target: Target) -> str | None:
    """A large file that is read at 1 KB a second."""
    opening = f"GET {target.large} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    hold(target, MANY, opening, lambda wire: wire.sip(1000))
    return None


def streams(target: Target) -> str | None:
    """Event streams of a busy job, which nobody reads."""
    opening = f"GET {target.events} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(target.port, opening, small_buffer=True)) for _ in range(MANY)]
        deadline = time.monotonic() + target.seconds
        while time.monotonic() < deadline:
            target.publish()
            time.sleep(PUBLISH_INTERVAL)
        statuses = {status for wire in wires for status in _opened(wire)}
    return None if statuses == {200} else f"answered {statuses}"


def _opened(wire: Wire) -> list[int]:
    wire.receive(0)
    return wire.statuses[:1]


def half_open(addresses: Sequence[str], beyond: int, target: Target) -> str | None:
    """Connections that send half a request, `beyond` more of each address than it may have. Those are refused."""
    count = len(addresses) * (target.connections + beyond)
    with ExitStack() as stack:
        deadline = time.monotonic() + target.seconds
        wires = [
            stack.enter_context(Wire(target.port, b"GET /healthz HTTP/1.1\r\nHost:", address=address))
            for address in addresses
            for _ in range(target.connections + beyond)
        ]
        while True:
            for wire in wires:
                wire.receive(0)
            refused = sum(wire.statuses == [503] or wire.ended for wire in wires)
            if time.monotonic() > deadline and refused >= len(addresses) * beyond:
                return None
            if time.monotonic() > deadline + 20:
                return f"{refused} connections of {count} refused"
            time.sleep(0.1)


def pipelined(read: bool, count: int, target: Target) -> str | None:
    """Requests sent without waiting for the answers, which are read slowly or not at all."""
    for wire in hold(target, count, b"", lambda wire: (wire.send(HEALTH * 1000), read and wire.sip(2000))):
        if 500 in wire.statuses:
            return f"answered {wire.statuses}"
    return None


def pipelined_in_order(target: Target) -> str | None:
    """A few pipelined requests are all answered, in order."""
    paths = [b"/healthz", b"/nowhere", b"/v1/healthz", b"/healthz"]
    with Wire(target.port, b"".join(HEALTH.replace(b"/healthz", path) for path in paths)) as wire:
        deadline = time.monotonic() + 5
        while len(wire.statuses) < len(paths) and time.monotonic() < deadline:
            wire.receive(0.1)
    return None if wire.statuses == [200, 404, 200, 200] else f"answered {wire.statuses}"


ATTACKS = [
    Attack("slow clients", "headers at 1 byte a second", headers),
    Attack("slow clients", "bodies at 1 byte a second", bodies),
    Attack("slow clients", "uploads at 1 byte a second", uploads),
    Attack("slow clients", "files read at 1 KB a second", readers),
    Attack("slow clients", "event streams that nobody reads", streams),
    Attack("slow clients", "2,300 half requests from one address", partial(half_open, [ATTACKER], 1788)),
    Attack(
        "slow clients",
        "half requests from three addresses",
        partial(half_open, [ATTACKER, *OTHER_ATTACKERS], 20),
    ),
    Attack("pipelining", "four requests", pipelined_in_order),
    Attack("pipelining", "answers that nobody reads", lambda target: pipelined(False, 50, target)),
    Attack("pipelining", "answers that are read slowly", lambda target: pipelined(True, 20, target)),
]
