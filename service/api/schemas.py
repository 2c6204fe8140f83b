"""A job as its owner sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from service.api.parameters import used
from service.jobs.deliveries import Delivery
from service.jobs.record import Input, Job, Output, Progress, Status, Webhook


class View(BaseModel):
    """An answer: made here, so never with fields that its description does not have."""

    model_config = ConfigDict(extra="forbid")


class VideoView(View):
    """Moving pictures."""

    width: int = Field(description="pixels, as displayed")
    height: int = Field(description="pixels, as displayed")
    fps: float = Field(description="frames a second")


class AudioView(View):
    """Sound."""

    sample_rate: int = Field(description="samples a second")
    channels: int = Field(description="1 is mono, 2 stereo")


class WindowView(View):
    """A part of an upload."""

    start: float = Field(description="seconds from the beginning of the upload")
    duration: float = Field(description="seconds")


class InputView(View):
    """The upload, as it was found to be."""

    filename: str = Field(description="its name as the client gave it")
    bytes: int = Field(description="its size")
    sha256: str = Field(description="its SHA-256, hexadecimal")
    duration: float = Field(description="seconds")
    video: VideoView | None = Field(description="its video track, if it has one")
    audio: AudioView | None = Field(description="its sound track, if it has one")
    used: WindowView = Field(description="the part that the job uses, in seconds")


class OutputView(View):
    """One clip made."""

    index: int = Field(description="its number, from 0")
    seed: int = Field(description="with the index it makes the clip again")
    files: dict[str, str] = Field(
        description="where to get each file: video.mp4, audio.wav, poster.webp, spectrogram.png, manifest.json"
    )


class ErrorView(View):
    """Why a job failed."""

    code: str = Field(description="for programs, such as undecodable_input, out_of_memory or worker_died")
    message: str = Field(description="for people")
    retryable: bool = Field(description="whether the same job may well succeed another time")
    attempt: int = Field(description="the attempt that failed")


class TimingsView(View):
    """Seconds spent in each stage."""

    queued: float = Field(description="waiting for a worker")
    decode: float = Field(description="reading the upload")
    base: float = Field(description="in the base network")
    sr: float = Field(description="in the super-resolution network")
    encode: float = Field(description="writing the files")
    upload: float = Field(description="bringing them to storage")


class DeliveryView(View):
    """One time that the webhook was sent."""

    at: datetime = Field(description="when")
    event: str = Field(description="the end that it told of: completed, failed or canceled")
    attempt: int = Field(description="which time it was, from 1")
    status: int | None = Field(description="the HTTP status that came back; null if none came")
    error: str | None = Field(description="why it does not count as received")
    next_attempt_at: datetime | None = Field(
        description="when it is sent again; null if it was received or is given up"
    )


class WebhookView(View):
    """Where the owner wants to hear of the job's end, and what came of that."""

    url: str = Field(description="where")
    events: list[str] = Field(description="of which ends: completed, failed, canceled")
    deliveries: list[DeliveryView] = Field(description="oldest first")


class JobView(View):
    """One job."""

    id: str = Field(description="`job_` and 26 characters, which sort by time")
    kind: str = Field(description="generate, v2a or a2v")
    status: Status = Field(description="queued, in_progress, and at the end completed, failed or canceled")
    model: str = Field(description="the model that makes it, as /models names it")
    stage: str | None = Field(description="what is being done now: base, then sr where the frames are enlarged")
    step: int | None = Field(description="how many steps of the stage are done")
    total_steps: int | None = Field(description="how many steps the stage has")
    progress: float = Field(description="0 … 1, over all stages")
    queue_position: int | None = Field(description="jobs that run before this one")
    eta_seconds: float | None = Field(description="how long it will take, by the steps measured so far")
    created_at: datetime = Field(description="when it was accepted")
    started_at: datetime | None = Field(description="when the latest attempt began to compute")
    completed_at: datetime | None = Field(description="when it ended, however it did")
    expires_at: datetime = Field(description="record and files are erased then, or when the job has ended if later")
    cancel_requested_at: datetime | None = Field(description="when its owner asked to stop it")
    retried_from: str | None = Field(description="the job that this one repeats")
    attempt: int = Field(description="how often a worker has taken it up; 0 while it waits for the first")
    params: dict[str, Any] = Field(description="every parameter as used, defaults included")
    input: InputView | None = Field(description="the upload; null for generate")
    outputs: list[OutputView] = Field(description="the clips, once the job is completed")
    error: ErrorView | None = Field(description="why it failed")
    timings: TimingsView | None = Field(description="how long each stage took, once the job is completed")
    metadata: dict[str, str] = Field(description="as the client gave it")
    webhook: WebhookView | None = Field(description="who is told of its end; null if nobody")
    urls: dict[str, str] = Field(description="paths of what can be asked for: self, cancel, retry, events, and input")


class JobList(View):
    """A part of the caller's jobs, newest first."""

    data: list[JobView] = Field(description="the jobs")
    has_more: bool = Field(description="whether older ones follow")
    next: str | None = Field(description="what to give as `after` for the part that follows; null at the end")


def job_view(
    job: Job,
    progress: Progress | None,
    queue_position: int | None,
    prefix: str,
    sign: Callable[[str], str],
    deliveries: Iterable[Delivery] = (),
) -> JobView:
    """What the record, the progress of its attempt and the log of its webhook look like from outside.

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
        webhook=_webhook(job.webhook, deliveries) if job.webhook else None,
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
    return {"self": url, "cancel": f"{url}/cancel", "retry": f"{url}/retry", "events": f"{url}/events"} | upload


def _output(output: Output, url: str, sign: Callable[[str], str]) -> OutputView:
    files = {name: sign(f"{url}/files/{file_name(name, output.index)}") for name in output.files}
    return OutputView(index=output.index, seed=output.seed, files=files)


def _webhook(webhook: Webhook, deliveries: Iterable[Delivery]) -> WebhookView:
    sent = [DeliveryView(**asdict(each)) for each in deliveries]
    return WebhookView(url=webhook.url, events=list(webhook.events), deliveries=sent)


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
