"""A TCP server with a thread for each connection; its subclasses say what a connection does."""

from __future__ import annotations

import socket
import threading
from abc import ABC, abstractmethod
from contextlib import suppress


class TcpServer(ABC):
    """Listens on a free port of 127.0.0.1 until `close()`. Connections are served from `__init__` on: call it last."""

    def __init__(self, backlog: int = 64) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=backlog)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name=type(self).__name__, daemon=True).start()

    @abstractmethod
    def serve(self, client: socket.socket) -> None:
        """Serve one connection, which is closed afterwards. An OSError only ends it."""

    def close(self) -> None:
        cut(self._listener)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            self.serve(client)


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Pass on what arrives until either side ends; then both are cut."""
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    cut(source)
    cut(sink)


def cut(end: socket.socket) -> None:
    """End a connection at once; closing alone would wait for a thread that reads from it."""
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
