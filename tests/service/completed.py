"""Completed jobs for tests of the API."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from service.jobs.record import Output, Status, Timings
from service.jobs.store import JobStore
from service.settings import Settings
from service.storage import open_storage
from tests.service import media


def complete(store: JobStore, settings: Settings, job_id: str, files: dict[str, bytes]) -> None:
    """Complete the job with these files, as a worker does."""
    claimed = store.claim(job_id, "a worker")
    assert claimed is not None
    store.start(job_id, claimed.attempt)
    storage = open_storage(settings)
    keys = {name: claimed.attempt_key(name) for name in files}
    for name, content in files.items():
        storage.put_bytes(keys[name], content, "application/octet-stream")
    store.complete(job_id, claimed.attempt, [Output(0, 1, keys)], Timings(base=0.5))


@contextmanager
def completing(store: JobStore, settings: Settings, files: dict[str, bytes]) -> Iterator[None]:
    """A worker that completes every job with these files, while the context is open."""
    stopped = threading.Event()

    def work() -> None:
        while not stopped.wait(0.02):
            for job in store.page(Status.QUEUED)[0]:
                complete(store, settings, job.id, files)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        stopped.set()
        worker.join()


def completed(client: httpx.Client, store: JobStore, settings: Settings) -> dict[str, Any]:
    """A job of this client with a video, and the file that it was made from."""
    job = client.post("/v2a", files={"file": ("a.mp4", media.video())}).json()
    complete(store, settings, job["id"], {"video.mp4": b"a video"})
    answer: dict[str, Any] = client.get(f"/jobs/{job['id']}").json()
    return answer
