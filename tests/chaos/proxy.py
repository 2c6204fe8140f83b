"""A TCP proxy whose target can be made unreachable and reachable again, without a change of address."""

from __future__ import annotations

import socket
import threading

from tests.tcp_server import TcpServer, cut, pump


class Proxy(TcpServer):
    """Passes connections on to `target`. While that is taken away, every connection is cut."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._pairs: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._away = False
        super().__init__()

    def take_away(self) -> None:
        """Cut every connection, and every new one, until `put_back()`."""
        with self._lock:
            self._away = True
            for end in self._pairs:
                cut(end)

    def put_back(self) -> None:
        with self._lock:
            self._away = False

    def close(self) -> None:
        self.take_away()
        super().close()

    def serve(self, client: socket.socket) -> None:
        with socket.create_connection(self._target, 5) as server:
            server.settimeout(None)
            with self._lock:
                if self._away:
                    return
                self._pairs |= {client, server}
            back = threading.Thread(target=pump, args=[server, client], daemon=True)
            back.start()
            pump(client, server)
            back.join()
            with self._lock:
                self._pairs -= {client, server}
