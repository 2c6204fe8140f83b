"""Serves a process's metrics on a separate port, `http://DUET_METRICS_HOST:DUET_METRICS_PORT/metrics`. It requires no
key, so only Prometheus should reach it."""

from __future__ import annotations

import errno
import socket
import threading
from http.server import ThreadingHTTPServer

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import MetricsHandler

from service.log import log
from service.settings import Settings


class Exporter:
    """Serves `registry` in its own threads from `start()` to `stop()`. Does nothing if no port is set.

    `shared`: several processes listen on the port, and each answers for all.
    """

    def __init__(self, settings: Settings, registry: CollectorRegistry, shared: bool = False) -> None:
        """Ends the process (SystemExit) with a message if the port is not available."""
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        if settings.metrics_port:
            handler = MetricsHandler.factory(registry)
            self._server = _listening(settings.metrics_host, settings.metrics_port, handler, shared)

    def start(self) -> None:
        if self._server is None:
            return
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()
        log.info("serving metrics", address="{}:{}".format(*self._server.server_address[:2]))

    def stop(self) -> None:
        """Close the port. May be called again, and before `start()`."""
        if self._server is not None:
            if self._thread is not None:
                self._server.shutdown()
            self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True


class _IPv6Server(_Server):
    address_family = socket.AF_INET6


def _listening(host: str, port: int, handler: type[MetricsHandler], shared: bool) -> _Server:
    server = (_IPv6Server if ":" in host else _Server)((host, port), handler, bind_and_activate=False)
    server.allow_reuse_port = shared
    try:
        server.server_bind()
        server.server_activate()
    except OSError as error:
        server.server_close()
        if error.errno == errno.EADDRINUSE:
            fault = f"DUET_METRICS_PORT is {port}: another program uses that port of {host}."
        else:
            fault = f"DUET_METRICS_HOST is {host!r}: cannot listen there, {error.strerror or error}."
        raise SystemExit(f"Duet cannot start.\n{fault}") from error
    return server
