"""The API with a key, and a worker that ends jobs in every way that jobs end, without a model."""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from pydantic import SecretStr

from model.request import SamplingParams
from service.app import create_app
from service.jobs.connection import connect
from service.jobs.record import IllegalTransition, Job, JobError, Output, Progress, StaleClaim, Status, Timings, new_job
from service.jobs.records import UnknownJob
from service.jobs.store import JobStore
from service.log import configure_logging
from service.settings import Settings
from service.storage import Storage, StorageUnavailable, open_storage
from service.study.record import Rater
from service.study.store import StudyStore
from tests.conftest import RedisServer, RunningApi
from tests.service.study.studies import a_study, stored
from tests.tiny_model import add_words_model

KEY = "duet_contract-" + "0" * 30
COMPLETED_JOB = "DUET_CONTRACT_JOB"
"""Name of the variable that tells the requesting process of that job."""

STUDY = "DUET_CONTRACT_STUDY"
"""Name of the variable with the token of a rater and the ids of the clips."""

MADE = {"video.mp4": b"a video", "audio.wav": b"a sound", "manifest.json": b"{}"}


@dataclass(frozen=True)
class Stack:
    """Where it is, a job that is completed from the beginning, and a rater of a study."""

    url: str
    completed_job: str
    rater: Rater


@contextmanager
def running() -> Iterator[Stack]:
    """The stack on a free port, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="duet-contract-") as name:
        folder = Path(name)
        redis = RedisServer(folder)
        redis.start()
        settings = Settings(
            redis_url=redis.url,
            data=folder / "data",
            api_keys=SecretStr(f"contract:{hashlib.sha256(KEY.encode()).hexdigest()}"),
            max_requests_per_minute=10**6,
            max_queued_per_key=10**5,
            max_queued=10**5,
            max_wait_s=0.2,
            max_sync_s=0.1,
            models=add_words_model(folder / "models"),
            default_model="words",
            log_level="error",
        )
        configure_logging(settings)
        api = RunningApi(create_app(settings))
        api.start()
        worker = _Worker(settings)
        job = worker.completed()
        worker.start()
        client = connect(settings)
        study = stored(settings, StudyStore(client), a_study())
        client.close()
        try:
            yield Stack(api.url, job.id, study.raters[0])
        finally:
            worker.stop()
            api.stop()
            redis.stop()


class _Worker(threading.Thread):
    """Of four jobs it completes one, fails one, leaves one running, and one waiting."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(name="worker", daemon=True)
        self._store = JobStore(connect(settings))
        self._storage = open_storage(settings)
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()
        self.join()

    def completed(self) -> Job:
        """A job with a result."""
        job = new_job(
            "generate",
            "demo",
            SamplingParams(seed=42),
            priority="normal",
            metadata={},
            retention=timedelta(days=1),
            owner="contract",
        )
        self._store.create(job)
        self._store.claim(job.id, "contract")
        self._end(self._store.start(job.id, 1), 0)
        return job

    def run(self) -> None:
        while not self._stopped.wait(0.05):
            self._store.announce_worker("contract")
            for job in self._store.page(Status.QUEUED)[0]:
                fate = int(hashlib.sha256(job.id.encode()).hexdigest(), 16) % 4
                try:
                    if fate < 3 and self._store.claim(job.id, "contract"):
                        self._end(self._store.start(job.id, job.attempt + 1), fate)
                except (UnknownJob, StaleClaim, IllegalTransition, StorageUnavailable):
                    continue  # erased or canceled meanwhile

    def _end(self, job: Job, fate: int) -> None:
        if fate == 0:
            self._store.complete(job.id, job.attempt, [made(self._storage, job)], Timings(base=0.1))
        elif fate == 1:
            self._store.fail(job.id, job.attempt, JobError("out_of_memory", "too large", True, job.attempt))
        else:
            self._store.progress(job.id, job.attempt, Progress("base", 7, 20, 0.31, 4.2))


def made(storage: Storage, job: Job) -> Output:
    """Store what stands for a result."""
    keys = {name: job.attempt_key(name) for name in MADE}
    for name, content in MADE.items():
        storage.put_bytes(keys[name], content, "application/octet-stream")
    return Output(0, job.params.seed or 0, keys)
