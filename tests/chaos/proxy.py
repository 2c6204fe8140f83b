"""A TCP proxy that can be taken away and put back: the outage of what is behind it, as its clients see one."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Proxy:
    """Listens on a port of 127.0.0.1 that it keeps, and passes on to `target`; while it is away connections are cut."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._pairs: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._away = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def take_away(self) -> None:
        """Cut every connection, and every new one, until `put_back()`."""
        with self._lock:
            self._away = True
            for end in self._pairs:
                _cut(end)

    def put_back(self) -> None:
        with self._lock:
            self._away = False

    def close(self) -> None:
        self.take_away()
        _cut(self._listener)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(self._target, 5) as server:
            server.settimeout(None)
            with self._lock:
                if self._away:
                    return
                self._pairs |= {client, server}
            back = threading.Thread(target=_pump, args=[server, client], daemon=True)
            back.start()
            _pump(client, server)
            back.join()
            with self._lock:
                self._pairs -= {client, server}


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    _cut(source)
    _cut(sink)


def _cut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
