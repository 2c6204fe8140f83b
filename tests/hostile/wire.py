"""A TCP client that sends what it likes, and notes what comes back."""

from __future__ import annotations

import re
import select
import socket
import time
from contextlib import suppress
from types import TracebackType

ATTACKER, BYSTANDER = "127.0.0.1", "127.0.0.2"
OTHER_ATTACKERS = ("127.0.0.3", "127.0.0.4")
"""Addresses from which attacks and other clients connect."""

REQUEST = b"POST /generate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
"""The opening of a request without the end of its headers."""

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


class Wire:
    """One connection from `address` to port `port` of 127.0.0.1. `small_buffer`: the kernel takes few bytes on its
    behalf."""

    def __init__(self, port: int, opening: bytes = b"", small_buffer: bool = False, address: str = ATTACKER) -> None:
        self.received = b""
        self.ended = False
        self._socket = socket.socket()
        if small_buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.bind((address, 0))
        self._socket.settimeout(10)
        self._socket.connect(("127.0.0.1", port))
        self._socket.settimeout(1)
        if opening:
            self.send(opening)

    def __enter__(self) -> Wire:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes) -> bool:
        """False if the server has ended the connection, or has taken nothing for a second."""
        try:
            self._socket.sendall(data)
        except OSError:
            return False
        return True

    def flood(self, piece: bytes, seconds: float, most: int = 2**30) -> int:
        """Send `piece` again and again, until the server ends the connection or takes nothing for a second. The bytes
        sent. What the server says is read meanwhile."""
        deadline, sent = time.monotonic() + seconds, 0
        while sent < most and time.monotonic() < deadline and self.send(piece):
            sent += len(piece)
            self.receive(0)
        return sent

    def receive(self, seconds: float) -> bytes:
        """Read for so long, or until the server ends the connection; all that was received so far."""
        deadline = time.monotonic() + seconds
        while not self.ended and self._readable(max(0.0, deadline - time.monotonic())):
            data = b""
            with suppress(OSError):
                data = self._socket.recv(65536)
            self.received += data
            self.ended = not data
        return self.received

    def sip(self, size: int) -> int:
        """Read at most `size` bytes, without waiting and without keeping them; the number of bytes read."""
        if self._readable(0):
            with suppress(OSError):
                return len(self._socket.recv(size))
        return 0

    def _readable(self, seconds: float) -> bool:
        readable = select.poll()
        readable.register(self._socket, select.POLLIN)
        return bool(readable.poll(seconds * 1000))

    @property
    def statuses(self) -> list[int]:
        """Of the responses received so far."""
        return [int(status) for status in _STATUS.findall(self.received)]
