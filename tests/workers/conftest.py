"""A model that takes milliseconds, and real worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from model.media.streams import AudioStream, VideoStream
from model.networks.config import PRESETS, ClipSpec
from model.request import SamplingParams
from service.jobs.connection import connect
from service.jobs.queue import JobQueue
from service.jobs.record import Input, Job, Window, new_job, new_job_id
from service.jobs.store import JobStore
from service.settings import Settings
from service.storage import FolderStorage
from tests.conftest import RedisServer
from tests.processes import ModuleProcess
from tests.service.new_jobs import upload_of
from tests.tiny_model import add_tiny_model
from tests.waiting import until

TINY = PRESETS["tiny"].clip

SECONDS = 180
"""Limit for the start of a worker and for a job, on a busy machine."""


class Stack:
    """What an API would do: uploads to storage, records to Redis, messages to the queue."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = JobStore(connect(settings))
        self.queue = JobQueue(settings)
        self.storage = FolderStorage(Path(settings.storage_url))

    def create(
        self,
        kind: str = "generate",
        upload: Path | None = None,
        metadata: Mapping[str, str] | None = None,
        **params: object,
    ) -> Job:
        """Write the record of a job, and its upload to storage, without waking anybody."""
        values = {"seed": 1, "steps": 2, "guidance": None if kind == "generate" else "replacement", **params}
        job_id = new_job_id()
        job = new_job(
            kind,
            "tiny",
            SamplingParams(**values),  # type: ignore[arg-type]
            priority="normal",
            metadata=dict(metadata or {}),
            retention=timedelta(hours=1),
            input=self._upload(job_id, upload, TINY) if upload else None,
            job_id=job_id,
        )
        self.store.create(job)
        return job

    def submit(self, kind: str = "generate", upload: Path | None = None, **params: object) -> Job:
        job = self.create(kind, upload, **params)  # type: ignore[arg-type]
        self.queue.enqueue(job)
        return job

    def ended(self, job: Job) -> Job:
        """Wait until the job has ended; return its record."""
        until(lambda: self.store.get(job.id).status.ended, f"{job.id} has ended", SECONDS)
        return self.store.get(job.id)

    def files(self, job: Job) -> list[str]:
        """What storage keeps of the job's results."""
        return [key for key in self.storage.list(job.storage_prefix) if "/attempt-" in key]

    def _upload(self, job_id: str, path: Path, clip: ClipSpec) -> Input:
        key = f"jobs/{job_id}/input{path.suffix}"
        self.storage.put_file(key, path, "application/octet-stream")
        video, audio, used = VideoStream(48, 32, 25.0), AudioStream(16_000, 1), Window(0.0, clip.duration)
        return upload_of(path, duration=clip.duration, video=video, audio=audio, used=used, key=key)


class WorkerProcess(ModuleProcess):
    """`duet worker`, as a user starts it."""

    def __init__(self, settings: Settings, log: Path) -> None:
        environment = {
            "DUET_REDIS_URL": settings.redis_url,
            "DUET_DATA": str(settings.data),
            "DUET_MODELS": str(settings.models),
            "DUET_BUCKETS": settings.buckets,
            "DUET_MODEL_PATIENCE": str(settings.model_patience.total_seconds()),
            "OMP_NUM_THREADS": "1",  # more threads only slow down a model this small
        }
        super().__init__(["duet", "worker"], environment, log)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one model, small enough for tests."""
    return add_tiny_model(tmp_path_factory.mktemp("models"))


@pytest.fixture
def stack(redis_url: str, models: Path, tmp_path: Path) -> Iterator[Stack]:
    """An empty Redis and an empty storage folder; nobody works."""
    stack = Stack(Settings(redis_url=redis_url, data=tmp_path / "data", models=models, default_model="tiny"))
    yield stack
    stack.queue.close()


@pytest.fixture
def short_leases(own_redis: RedisServer, models: Path, tmp_path: Path) -> Iterator[Stack]:
    """The same with leases of 2 s, two slots, and a Redis that the test can stop."""
    settings = Settings(
        redis_url=own_redis.url, data=tmp_path / "data", models=models, default_model="tiny", lease=2, slots=2
    )
    stack = Stack(settings)
    yield stack
    stack.queue.close()


@pytest.fixture
def start_worker(stack: Stack, tmp_path: Path) -> Iterator[Callable[[], WorkerProcess]]:
    """Starts a worker and returns once it is there; what still runs at the end of the test is stopped."""
    with ExitStack() as workers:
        yield lambda: workers.enter_context(running_worker(stack, tmp_path / "worker.log"))


@pytest.fixture(scope="module")
def served(shared_redis: RedisServer, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with one worker that all tests of a module share."""
    folder = tmp_path_factory.mktemp("served")
    url = f"{shared_redis.url}?db=1"
    stack = Stack(Settings(redis_url=url, data=folder / "data", models=models, default_model="tiny"))
    with running_worker(stack, folder / "worker.log"):
        yield stack
    stack.queue.close()


@contextmanager
def running_worker(stack: Stack, log: Path) -> Iterator[WorkerProcess]:
    """A worker process that has announced itself."""
    known = set(stack.store.workers())
    worker = WorkerProcess(stack.settings, log)

    def there() -> bool:
        assert worker.process.poll() is None, f"the worker ended:\n{log.read_text()}"
        return bool(set(stack.store.workers()) - known)

    try:
        until(there, "the worker is there", SECONDS)
        yield worker
    finally:
        worker.stop()
