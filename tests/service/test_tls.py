"""Where an address says TLS, a server is talked to only if its certificate holds: Redis, and either broker."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.jobs.connection import StoreUnavailable, connect
from service.jobs.queue import JobQueue, QueueUnavailable
from service.jobs.store import JobStore
from service.settings import Settings
from tests.service.certificates import self_signed
from tests.service.new_jobs import a_job
from tests.tcp_server import TcpServer


class Impostor(TcpServer):
    """A server with a certificate of its own making, for `name`; it notes who went on talking to it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.certificate = folder / "certificate.pem"
        self.certificate.write_bytes(self_signed(name))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        self.fooled: list[bytes] = []
        self._context = context
        super().__init__()

    def serve(self, client: socket.socket) -> None:
        with self._context.wrap_socket(client, server_side=True) as secured:
            secured.settimeout(1)
            if said := secured.recv(64):
                self.fooled.append(said)


@pytest.fixture
def impostor(tmp_path: Path) -> Iterator[Callable[[str], Impostor]]:
    running: list[Impostor] = []

    def start(name: str) -> Impostor:
        running.append(Impostor(tmp_path, name))
        return running[-1]

    yield start
    for each in running:
        each.close()


@pytest.fixture
def trusted(impostor: Callable[[str], Impostor], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Impostor]:
    """Starts a server whose certificate SSL_CERT_FILE names."""

    def start(name: str) -> Impostor:
        server = impostor(name)
        monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate))
        return server

    return start


def ask_redis(url: str) -> None:
    JobStore(connect(Settings(redis_url=url))).ping()


def send_by_redis(url: str) -> None:
    JobQueue(Settings(redis_url=url)).enqueue(a_job())


def connect_to_rabbitmq(url: str) -> None:
    JobQueue(Settings(broker_url=url)).connect()  # type: ignore[arg-type]


USES = [
    pytest.param(ask_redis, "rediss://localhost:{port}/0", StoreUnavailable, id="store"),
    pytest.param(send_by_redis, "rediss://localhost:{port}/0", QueueUnavailable, id="redis"),
    pytest.param(connect_to_rabbitmq, "amqps://me:pw@localhost:{port}/", QueueUnavailable, id="rabbitmq"),
]


@pytest.mark.parametrize(("use", "url", "error"), USES)
def test_a_certificate_that_nobody_vouches_for_is_refused(
    use: Callable[[str], None], url: str, error: type[Exception], impostor: Callable[[str], Impostor]
) -> None:
    server = impostor("localhost")
    with pytest.raises(error, match="certificate verify failed"):
        use(url.format(port=server.port))
    assert server.fooled == []


@pytest.mark.parametrize(("use", "url", "error"), USES)
def test_a_certificate_for_somebody_else_is_refused(
    use: Callable[[str], None], url: str, error: type[Exception], trusted: Callable[[str], Impostor]
) -> None:
    server = trusted("somebody.example")
    with pytest.raises(error, match=r"[Hh]ostname mismatch"):
        use(url.format(port=server.port))
    assert server.fooled == []


@pytest.mark.parametrize(("use", "url", "error"), USES)
def test_one_that_is_trusted_and_right_is_talked_to(
    use: Callable[[str], None], url: str, error: type[Exception], trusted: Callable[[str], Impostor]
) -> None:
    """The call still fails, because the server does not speak the protocol."""
    server = trusted("localhost")
    with pytest.raises(error) as ended:
        use(url.format(port=server.port))
    assert "certificate" not in str(ended.value)
    assert server.fooled
