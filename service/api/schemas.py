"""A job as its owner sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from service.api.parameters import used
from service.jobs.record import Input, Job, Output, Progress, Status


class View(BaseModel):
    """An answer: made here, so never with fields that its description does not have."""

    model_config = ConfigDict(extra="forbid")


class VideoView(View):
    width: int
    height: int
    fps: float


class AudioView(View):
    sample_rate: int
    channels: int


class WindowView(View):
    start: float
    duration: float


class InputView(View):
    """The upload, as it was found to be."""

    filename: str
    bytes: int
    sha256: str
    duration: float = Field(description="seconds")
    video: VideoView | None
    audio: AudioView | None
    used: WindowView = Field(description="the part that the job uses, in seconds")


class OutputView(View):
    """One clip made."""

    index: int
    seed: int
    files: dict[str, str] = Field(description="where to get each file")


class ErrorView(View):
    code: str
    message: str
    retryable: bool
    attempt: int


class TimingsView(View):
    """Seconds spent in each stage."""

    queued: float
    decode: float
    base: float
    sr: float
    encode: float
    upload: float


class JobView(View):
    """One job."""

    id: str
    kind: str
    status: Status
    model: str
    stage: str | None = Field(description="what is being done now")
    step: int | None
    total_steps: int | None
    progress: float = Field(description="0 … 1, over all stages")
    queue_position: int | None = Field(description="jobs that run before this one")
    eta_seconds: float | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    expires_at: datetime = Field(description="record and files are erased then, or when the job has ended if later")
    cancel_requested_at: datetime | None
    retried_from: str | None = Field(description="the job that this one repeats")
    attempt: int
    params: dict[str, Any] = Field(description="every parameter as used, defaults included")
    input: InputView | None
    outputs: list[OutputView]
    error: ErrorView | None
    timings: TimingsView | None
    metadata: dict[str, str]
    urls: dict[str, str]


class JobList(View):
    """A part of the caller's jobs, newest first."""

    data: list[JobView]
    has_more: bool
    next: str | None = Field(description="what to give as `after` for the part that follows; null at the end")


def job_view(
    job: Job, progress: Progress | None, queue_position: int | None, prefix: str, sign: Callable[[str], str]
) -> JobView:
    """What the record and the progress of its attempt look like from outside.

    `prefix` stands before every path; `sign` makes the path of a file one that can be fetched.
    """
    url = f"{prefix}/jobs/{job.id}"
    return JobView(
        id=job.id,
        kind=job.kind,
        status=job.status,
        model=job.model,
        stage=progress.stage if progress else None,
        step=progress.step if progress else None,
        total_steps=progress.total_steps if progress else None,
        progress=1.0 if job.status is Status.COMPLETED else progress.progress if progress else 0.0,
        queue_position=queue_position,
        eta_seconds=progress.eta_seconds if progress else None,
        created_at=job.created_at,
        started_at=job.started_at,
        completed_at=job.completed_at,
        expires_at=job.expires_at,
        cancel_requested_at=job.cancel_requested_at,
        retried_from=job.retried_from,
        attempt=job.attempt,
        params=_params(job),
        input=_input(job.input) if job.input else None,
        outputs=[_output(output, url, sign) for output in job.outputs],
        error=ErrorView(**asdict(job.error)) if job.error else None,
        timings=TimingsView(**asdict(job.timings)) if job.timings else None,
        metadata=job.metadata,
        urls=_urls(job, url, sign),
    )


def file_name(name: str, index: int) -> str:
    """Under which name file `name` of output `index` is fetched: `video.mp4`, then `video-1.mp4`, `video-2.mp4` …"""
    stem, dot, suffix = name.partition(".")
    return f"{stem}-{index}{dot}{suffix}" if index else name


def _params(job: Job) -> dict[str, Any]:
    start = {"start": job.input.used.start} if job.input else {}
    return used(job.kind, job.params) | start | {"priority": job.priority}


def _urls(job: Job, url: str, sign: Callable[[str], str]) -> dict[str, str]:
    upload = {"input": sign(f"{url}/files/{job.input.name}")} if job.input else {}
    return {"self": url, "cancel": f"{url}/cancel", "retry": f"{url}/retry"} | upload


def _output(output: Output, url: str, sign: Callable[[str], str]) -> OutputView:
    files = {name: sign(f"{url}/files/{file_name(name, output.index)}") for name in output.files}
    return OutputView(index=output.index, seed=output.seed, files=files)


def _input(upload: Input) -> InputView:
    return InputView(
        filename=upload.filename,
        bytes=upload.bytes,
        sha256=upload.sha256,
        duration=upload.duration,
        video=VideoView(**asdict(upload.video)) if upload.video else None,
        audio=AudioView(**asdict(upload.audio)) if upload.audio else None,
        used=WindowView(**asdict(upload.used)),
    )
