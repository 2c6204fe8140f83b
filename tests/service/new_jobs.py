"""Jobs for tests."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from model.media.streams import AudioStream, VideoStream
from model.request import SamplingParams
from service.jobs.record import Input, Job, JobError, Output, Timings, Window, new_job
from service.jobs.store import JobStore

OUTPUT = Output(0, 42, {"video.mp4": "jobs/x/attempt-1/video.mp4"})
TIMINGS = Timings(queued=0.1, base=3.9)
UPLOAD = Input(
    filename="beach.mov",
    bytes=834563,
    sha256="ab" * 32,
    duration=7.8,
    video=VideoStream(320, 240, 29.97),
    audio=AudioStream(44100, 2),
    used=Window(0.0, 1.6),
    name="input.mov",
    key="jobs/x/input.mov",
)


def upload_of(path: Path, **changes: Any) -> Input:
    """The upload of a file; `changes` replace fields of UPLOAD."""
    data = path.read_bytes()
    file = {"filename": path.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return replace(UPLOAD, **file, name=f"input{path.suffix}", **changes)


def a_job(kind: str = "generate", priority: str = "normal", **changes: Any) -> Job:
    """A queued job."""
    given = {"metadata": {}, "retention": timedelta(days=7), **changes}
    return new_job(kind, "demo", SamplingParams(seed=42), priority=priority, **given)


def an_ended_job(store: JobStore, how: str, **changes: Any) -> Job:
    """A job that has ended as `how` says: completed, failed or canceled."""
    job = a_job(**changes)
    store.create(job)
    if how == "canceled":
        return store.request_cancel(job.id)
    store.claim(job.id, "a worker")
    store.start(job.id, 1)
    if how == "failed":
        return store.fail(job.id, 1, JobError("internal_error", "it broke", False, 1))
    return store.complete(job.id, 1, [OUTPUT], TIMINGS)
