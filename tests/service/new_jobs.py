"""Jobs for tests."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from model.media.streams import AudioStream, VideoStream
from model.request import SamplingParams
from service.jobs.record import Input, Job, Output, Timings, Window, new_job

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


def a_job(kind: str = "generate", priority: str = "normal", **changes: Any) -> Job:
    """A queued job."""
    given = {"metadata": {}, "retention": timedelta(days=7), **changes}
    return new_job(kind, "demo", SamplingParams(seed=42), priority=priority, **given)
