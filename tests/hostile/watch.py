"""Two things that must stay untouched: a file that nobody may open, and an address that nobody may call."""

from __future__ import annotations

import ctypes
import os
import socket
from pathlib import Path
from types import TracebackType

IN_OPEN = 0x20


class Canary:
    """A file in a folder of its own, watched by the kernel (inotify): whoever opens it is noticed."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "canary" / "secret.mp4"
        self.path.parent.mkdir(parents=True)

    def fill(self, data: bytes) -> None:
        """Put something worth stealing there: what a playlist would play."""
        self.path.write_bytes(data)

    def __enter__(self) -> Canary:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        watched = libc.inotify_add_watch(self._fd, os.fsencode(self.path), IN_OPEN)
        if self._fd < 0 or watched < 0:
            raise OSError(ctypes.get_errno(), "the kernel watches no files here")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def opened(self) -> bool:
        """Whether anybody opened it since the last question."""
        try:
            return bool(os.read(self._fd, 4096))
        except BlockingIOError:
            return False


class Silence:
    """A port on loopback that listens, and takes no call by itself."""

    def __enter__(self) -> Silence:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def called(self) -> bool:
        """Whether anybody called since the last question."""
        try:
            connection, _ = self._socket.accept()
        except BlockingIOError:
            return False
        connection.close()
        return True
