"""`duet` as a process, and servers for it to talk to: a real API and a real worker whose model takes no time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest
import redis

from service.app import create_app
from service.jobs.connection import connect
from service.jobs.store import JobStore
from service.settings import Settings
from tests.conftest import RedisServer, RunningApi
from tests.service.keys import with_keys
from tests.tiny_model import add_tiny_model
from tests.waiting import until
from tests.workers.fake import FakeWorker


def environment(**further: str) -> dict[str, str]:
    """The environment of this process without Duet's settings, and with `further`."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("DUET_")}
    return own | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"} | further


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "duet", *map(str, arguments)]


class Cli:
    """Runs `duet` in its own folder and environment."""

    started: ClassVar[list[subprocess.Popen[bytes]]] = []

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.environment = environment(PYTHONPATH=str(Path.cwd()), **settings)

    def __call__(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run it to its end, all of it piped."""
        return subprocess.run(
            command(*arguments),
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
        )

    def start(self, *arguments: object, **streams: int) -> subprocess.Popen[bytes]:
        """Start it; standard streams are pipes where `streams` says nothing else."""
        piped = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
        process = subprocess.Popen(command(*arguments), cwd=self.folder, env=self.environment, **piped)  # type: ignore[call-overload]
        self.started.append(process)
        return process

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


class Server:
    """An API with its jobs, and workers on demand."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.folder = folder
        self.store = JobStore(connect(settings))
        self.api = RunningApi(create_app(settings))
        self.api.start()
        self.url = self.api.url
        self.workers: list[FakeWorker] = []

    def work(self, step_seconds: float) -> None:
        """Start a worker; each of its jobs has five steps of so many seconds."""
        worker = FakeWorker(self.settings, self.folder, step_seconds * 5)  # a job that is alone takes a fifth
        self.workers.append(worker)
        until(lambda: self.store.workers() or worker.process.poll() is not None, "the worker is there", 60)
        assert worker.process.poll() is None, worker.log.read_text()

    def stop(self) -> None:
        for worker in self.workers:
            worker.stop()
        self.api.stop()


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    """Kills the processes that a failed test has left."""
    yield
    for process in Cli.started:
        process.kill()
        process.communicate()
    Cli.started.clear()


@contextmanager
def running(url: str, folder: Path, **settings: object) -> Iterator[Server]:
    """A server on an empty Redis."""
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    server = Server(Settings(redis_url=url, data=folder / "data", **settings), folder)  # type: ignore[arg-type]
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def server(shared_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a fast worker, shared by the tests of a module."""
    with running(f"{shared_redis.url}?db=3", tmp_path_factory.mktemp("server")) as server:
        server.work(0.02)
        yield server


@pytest.fixture
def idle_server(shared_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for one test, without a worker."""
    with running(f"{shared_redis.url}?db=4", tmp_path_factory.mktemp("idle")) as server:
        yield server


@pytest.fixture
def duet(server: Server, tmp_path: Path) -> Cli:
    """`duet` with that server in its environment."""
    return Cli(tmp_path, DUET_URL=server.url)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one model, small enough for tests."""
    return add_tiny_model(tmp_path_factory.mktemp("tiny models"))


@pytest.fixture
def local(tmp_path: Path, tiny_models: Path) -> Callable[..., Cli]:
    """`duet` without a server, with a small model, in its own folder."""

    def make(**settings: str) -> Cli:
        models = {"DUET_MODELS": str(tiny_models), "DUET_DEFAULT_MODEL": "tiny", "DUET_DATA": str(tmp_path / "data")}
        folder = tmp_path / "here"
        folder.mkdir(exist_ok=True)
        return Cli(folder, **(models | settings))

    return make


@pytest.fixture
def shared_redis_url(shared_redis: RedisServer) -> str:
    """A database of the shared Redis that no other test uses."""
    return f"{shared_redis.url}?db=5"


@pytest.fixture
def run_with_keys() -> Iterator[Callable[[str, Path], Server]]:
    """Starts a server that requires API keys."""
    servers: list[Server] = []

    def start(url: str, folder: Path) -> Server:
        servers.append(Server(with_keys(Settings(redis_url=url, data=folder / "data")), folder))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
