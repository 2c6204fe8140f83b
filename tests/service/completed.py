"""Completed jobs for tests of the API."""

from __future__ import annotations

from typing import Any

import httpx

from service.jobs.record import Output, Timings
from service.jobs.store import JobStore
from service.settings import Settings
from service.storage import open_storage
from tests.service import media


def completed(client: httpx.Client, store: JobStore, settings: Settings) -> dict[str, Any]:
    """A job of this client with a video, and the file that it was made from."""
    job = client.post("/v2a", files={"file": ("a.mp4", media.video())}).json()
    claimed = store.claim(job["id"], "a worker")
    assert claimed is not None
    store.start(job["id"], claimed.attempt)
    key = claimed.attempt_key("video.mp4")
    open_storage(settings).put_bytes(key, b"a video", "video/mp4")
    store.complete(job["id"], claimed.attempt, [Output(0, 1, {"video.mp4": key})], Timings())
    answer: dict[str, Any] = client.get(f"/jobs/{job['id']}").json()
    return answer
