"""What tests share: a real Redis, a real HTTP server, the real clips where the environment names their folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
import redis
import uvicorn
from fastapi import FastAPI

from duet.standalone.resources import redis_program
from service.app import create_app
from service.jobs.connection import connect
from service.jobs.queue import JobQueue
from service.jobs.store import JobStore
from service.log import configure_logging
from service.server import server_config
from service.settings import Settings
from service.study.store import StudyStore
from tests.clips import a_sound, a_video
from tests.marks import HIDDEN, hidden
from tests.waiting import until


class RedisServer:
    """A Redis of its own, on a Unix socket in `folder`, with every write on disk before it is answered."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.url = f"unix://{quote(str(folder / 'redis.sock'))}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [str(redis_program()), "--port", "0", "--unixsocket", "redis.sock", "--save", '""']
        command += ["--appendonly", "yes", "--appendfsync", "always"]
        self._process = subprocess.Popen(command, cwd=self._folder, stdout=subprocess.DEVNULL)
        until(self._answers, "Redis answers")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def kill(self) -> None:
        """As the power going out would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False


class RunningApi:
    """An API as users meet it: uvicorn on a port of its own, in a thread of this process."""

    def __init__(self, app: FastAPI, settings: Settings | None = None) -> None:
        self.app = app
        chosen = (settings or Settings()).model_copy(update={"host": "127.0.0.1", "port": 0})
        self._server = uvicorn.Server(server_config(app, chosen))
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def start(self) -> None:
        self._thread.start()
        until(lambda: self._server.started or not self._thread.is_alive(), "the API listens")
        assert self._server.started, "the API ended while it started"
        self.port: int = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive(), "the API does not stop"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Note hidden tests, for tests/test_marks.py. Called after the folders' own, and before `-m` chooses."""
    config.stash[HIDDEN] = hidden(items)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked `gpu` are skipped without a CUDA device."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


@pytest.fixture(scope="session", autouse=True)
def quiet_log() -> None:
    """Only what went wrong is shown beside a failed test."""
    configure_logging(Settings(log_level="warning"))


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One Redis for all tests, in a folder with a space in its name, as users' folders have."""
    server = RedisServer(tmp_path_factory.mktemp("a redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_url(shared_redis: RedisServer) -> str:
    """An empty Redis."""
    with redis.Redis.from_url(shared_redis.url) as client:
        client.flushall()
    return shared_redis.url


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that the test may stop and start."""
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(folder)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def shared_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that goes with the shared Redis."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def settings(redis_url: str, shared_data: Path) -> Settings:
    """The defaults, with an empty Redis and an empty folder."""
    for path in shared_data.iterdir():
        shutil.rmtree(path)
    return Settings(redis_url=redis_url, data=shared_data)


@pytest.fixture
def store(settings: Settings) -> Iterator[JobStore]:
    client = connect(settings)
    yield JobStore(client)
    client.close()


@pytest.fixture
def studies(settings: Settings) -> Iterator[StudyStore]:
    with closing(connect(settings)) as client:
        yield StudyStore(client)


@pytest.fixture
def queue(settings: Settings) -> Iterator[JobQueue]:
    queue = JobQueue(settings)
    yield queue
    queue.close()


@pytest.fixture
def run_api() -> Iterator[Callable[[Settings], RunningApi]]:
    """Starts the API with given settings; stops it after the test."""
    running: list[RunningApi] = []

    def start(settings: Settings) -> RunningApi:
        api = RunningApi(create_app(settings), settings)
        api.start()
        running.append(api)
        return api

    yield start
    for api in running:
        api.stop()


@pytest.fixture(scope="session")
def shared_api(shared_redis: RedisServer, shared_data: Path) -> Iterator[RunningApi]:
    """One API with the default settings for all tests."""
    api = RunningApi(create_app(Settings(redis_url=shared_redis.url, data=shared_data)))
    api.start()
    yield api
    api.stop()


@pytest.fixture(scope="session")
def shared_client(shared_api: RunningApi) -> Iterator[httpx.Client]:
    """An HTTP client of the shared API."""
    with httpx.Client(base_url=shared_api.url, timeout=30, trust_env=False) as client:
        yield client


@pytest.fixture
def client(shared_client: httpx.Client, settings: Settings) -> httpx.Client:
    """An HTTP client of an API that `settings` describes, with no jobs and no files yet."""
    return shared_client


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """URL of an S3 server in this process."""
    from moto.server import ThreadedMotoServer  # takes a second to load, and a machine that has no moto needs no S3

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """PyTorch with one thread: more only slow down a model as small as those of the tests."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def clips() -> Path:
    """The folder of real clips."""
    folder = os.environ.get("DUET_CLIPS_DIR")
    if not folder:
        pytest.skip("DUET_CLIPS_DIR is not set: no real clips here")
    return Path(folder)


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video with sound: a real one if DUET_CLIPS_DIR is set, otherwise a generated one."""
    return a_video(tmp_path_factory.mktemp("film"))


@pytest.fixture(scope="session")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound: a real one if DUET_CLIPS_DIR is set, otherwise a generated one."""
    return a_sound(tmp_path_factory.mktemp("music"))
