"""The job as JSON: what the API returns, webhooks carry and the command line prints."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from model.media.edits import MASK_NAME
from model.request import SamplingParams
from service.jobs.deliveries import Delivery
from service.jobs.record import Input, Job, Output, Progress, Status, Webhook

_SAMPLING = tuple(field.name for field in fields(SamplingParams))
_SUPER_RESOLUTION = frozenset({"super_resolution", "sr_sampler", "sr_steps", "sr_start"})
"""Parameters that a v2a job does not take: its frames are the uploaded ones."""

OUTPUT_FILES = ("video.mp4", "audio.wav", "poster.webp", "spectrogram.png", "manifest.json")
"""The files of every output."""

NEW_SOUND = "audio-new.wav"
"""The new sound alone, where it is mixed with the upload's own."""


class View(BaseModel):
    """Part of a response. Unknown fields are errors, because every instance is built here."""

    model_config = ConfigDict(extra="forbid")


class VideoView(View):
    """A video stream."""

    width: int = Field(ge=1, description="pixels, as displayed")
    height: int = Field(ge=1, description="pixels, as displayed")
    fps: float = Field(description="frames per second")


class AudioView(View):
    """An audio stream."""

    sample_rate: int = Field(ge=1, description="samples per second")
    channels: int = Field(description="1 is mono, 2 stereo")


class WindowView(View):
    """A section of an upload."""

    start: float = Field(description="seconds from the beginning of the upload")
    duration: float = Field(description="seconds")
    tracks: list[int] = Field(
        description="numbers of the file's tracks that the job uses, from 0; two for a left and a right channel"
    )
    notice: str | None = Field(description="why the rest of a longer upload is not used")


class InputView(View):
    """The upload, as probed."""

    filename: str = Field(description="file name given by the client")
    bytes: int = Field(description="size in bytes")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256, hexadecimal")
    duration: float = Field(description="seconds")
    video: VideoView | None = Field(description="video stream, if there is one")
    audio: AudioView | None = Field(description="audio stream, if there is one")
    used: WindowView = Field(description="section that the job uses, in seconds")


class ScoresView(View):
    """How well sound and picture agree; of an edit, in what was made anew. A score that cannot be said, such as of
    silence, is null."""

    sync: float | None = Field(
        ge=0, le=1, description="onset agreement: F1 of sound onsets and of flashes and reversals seen within a frame"
    )
    av_align: float | None = Field(ge=0, le=1, description="AV-Align: sound onsets and peaks of optical flow that meet")
    lag: float | None = Field(description="seconds by which the sound is late where it fits the motion best")


class DroppedView(View):
    """One clip that was not kept."""

    index: int = Field(ge=0, description="index of the clip")
    seed: int = Field(description="seed; together with the index it reproduces the clip")
    scores: ScoresView = Field(description="how well its sound and picture agree")
    scores_reason: str | None = Field(
        default=None,
        description="why scores are null; absent if none is",
        exclude_if=lambda reason: reason is None,
    )


class OutputView(DroppedView):
    """One clip."""

    files: dict[str, str] = Field(
        description="path of each file: video.mp4, audio.wav, poster.webp, spectrogram.png, manifest.json; and where "
        "new sound is put beside or into the upload's own, audio-new.wav, which is the new sound alone"
    )


class ErrorView(View):
    """Why a job failed."""

    code: str = Field(description="machine-readable code, such as undecodable_input, out_of_memory or worker_died")
    message: str = Field(description="explanation for people")
    retryable: bool = Field(description="whether the same job may succeed if it is retried")
    attempt: int = Field(ge=0, description="the attempt that failed")


class WaitingView(View):
    """Why a queued job cannot run yet, other than the jobs before it."""

    code: Literal["model_unavailable", "model_loading"] = Field(description="machine-readable code")
    message: str = Field(description="explanation for people")
    since: datetime = Field(description="time since which it has waited for this")


class TimingsView(View):
    """Seconds spent in each stage."""

    queued: float = Field(description="waiting in the queue")
    decode: float = Field(description="decoding the upload")
    base: float = Field(description="sampling with the base network")
    sr: float = Field(description="sampling with the super-resolution network")
    encode: float = Field(description="encoding the files")
    upload: float = Field(description="uploading the files to storage")


class DeliveryView(View):
    """One delivery attempt of the webhook."""

    at: datetime = Field(description="time of the attempt")
    event: str = Field(description="reported event: completed, failed or canceled")
    attempt: int = Field(ge=1, description="number of the attempt")
    status: int | None = Field(description="HTTP status of the response; null if there was none")
    error: str | None = Field(description="why the attempt failed; null if it succeeded")
    next_attempt_at: datetime | None = Field(
        description="time of the next attempt; null after success or after the last attempt"
    )


class WebhookView(View):
    """The webhook of a job and its delivery attempts."""

    url: str = Field(description="destination")
    events: list[str] = Field(description="reported events: completed, failed, canceled")
    deliveries: list[DeliveryView] = Field(description="oldest first")


class JobView(View):
    """One job."""

    id: str = Field(description="`job_` and 26 characters, which sort by time")
    kind: str = Field(description="generate, v2a, a2v or edit")
    status: Status = Field(description="queued, in_progress, completed, failed or canceled")
    model: str = Field(description="name of the model, as listed by /models")
    stage: str | None = Field(description="current stage: base, then sr with super-resolution")
    step: int | None = Field(description="completed steps of the stage")
    total_steps: int | None = Field(description="total steps of the stage")
    progress: float = Field(description="0 … 1, over all stages")
    queue_position: int | None = Field(description="number of jobs ahead in the queue")
    waiting_for: WaitingView | None = Field(description="what a queued job waits for besides its turn; usually null")
    eta_seconds: float | None = Field(description="estimated seconds until completion, from the steps measured so far")
    created_at: datetime = Field(description="time of acceptance")
    started_at: datetime | None = Field(description="start of the latest attempt")
    completed_at: datetime | None = Field(description="time at which it completed, failed or was canceled")
    expires_at: datetime = Field(description="record and files are erased then, or when the job has ended if later")
    cancel_requested_at: datetime | None = Field(description="time of the cancel request")
    retried_from: str | None = Field(description="id of the job that this one retries")
    attempt: int = Field(description="number of times a worker has claimed it; 0 before the first claim")
    params: dict[str, Any] = Field(description="all parameters as used, defaults included")
    input: InputView | None = Field(description="the upload; null for generate")
    outputs: list[OutputView] = Field(
        description="the clips, with `keep` the best first; empty until the job is completed"
    )
    dropped: list[DroppedView] = Field(description="the clips that `keep` left out, which have no files")
    error: ErrorView | None = Field(description="why it failed")
    timings: TimingsView | None = Field(description="seconds spent in each stage; null until the job is completed")
    metadata: dict[str, str] = Field(description="metadata given by the client")
    webhook: WebhookView | None = Field(description="the webhook; null if there is none")
    urls: dict[str, str] = Field(
        description="paths of the job's resources: self, cancel, retry, events, input and mask"
    )


class JobList(View):
    """One page of the caller's jobs, newest first."""

    data: list[JobView] = Field(description="the jobs")
    has_more: bool = Field(description="whether there are older jobs")
    next: str | None = Field(description="value of `after` for the next page; null on the last page")


def job_view(
    job: Job,
    progress: Progress | None,
    queue_position: int | None,
    prefix: str,
    sign: Callable[[str], str],
    deliveries: Iterable[Delivery] = (),
) -> JobView:
    """Build the JSON view from the record, the progress of its attempt and the log of its webhook.

    `prefix` is prepended to every path; `sign` turns the path of a file into one that can be fetched without a key.
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
        waiting_for=_waiting(job),
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
        outputs=[_output(output, url, sign) for output in job.outputs if output.files],
        dropped=[DroppedView(**_identity(output)) for output in job.outputs if not output.files],
        error=ErrorView(**asdict(job.error)) if job.error else None,
        timings=TimingsView(**asdict(job.timings)) if job.timings else None,
        metadata=job.metadata,
        webhook=_webhook(job.webhook, deliveries) if job.webhook else None,
        urls=_urls(job, url, sign),
    )


def output_files(job: Job) -> tuple[str, ...]:
    """Names of the files of each output of the job."""
    has_new_sound = job.mix.keeps_own if job.edit is None else bool(new_sound(job))
    return (*OUTPUT_FILES, NEW_SOUND) if has_new_sound else OUTPUT_FILES


def new_sound(job: Job) -> tuple[tuple[float, float], ...]:
    """The spans of an edit in which new sound is heard: what extends a silent film is silent too."""
    if job.edit is None or (job.edit.extend is not None and job.input is not None and job.input.audio is None):
        return ()
    return job.edit.audio


def file_name(name: str, index: int) -> str:
    """Public name of file `name` of output `index`: `video.mp4`, then `video-1.mp4`, `video-2.mp4` …"""
    stem, dot, suffix = name.partition(".")
    return f"{stem}-{index}{dot}{suffix}" if index else name


def _waiting(job: Job) -> WaitingView | None:
    if job.status is not Status.QUEUED:
        return None
    if job.model_loading_since is not None:
        message = f"A worker has taken the job and is loading the model {job.model!r}, or waiting for room for it."
        return WaitingView(code="model_loading", message=message, since=job.model_loading_since)
    if job.model_missing_since is not None:
        message = f"No worker with the model {job.model!r} has taken the job yet; it waits for one."
        return WaitingView(code="model_unavailable", message=message, since=job.model_missing_since)
    return None


def _params(job: Job) -> dict[str, Any]:
    start = {"start": job.input.used.start} if job.input and job.edit is None else {}
    left_out = _SUPER_RESOLUTION if job.kind == "v2a" else {"duration"} if job.edit is not None else ()
    names = (name for name in _SAMPLING if name not in left_out)
    values = {name: getattr(job.params, name) for name in names}
    used = {name: value for name, value in values.items() if value is not None}
    mix = {} if job.mix.changes_nothing else job.mix.params()
    edit = job.edit.params() if job.edit is not None else {}
    return used | start | edit | mix | {"priority": job.priority}


def _urls(job: Job, url: str, sign: Callable[[str], str]) -> dict[str, str]:
    upload = {"input": sign(f"{url}/files/{job.input.name}")} if job.input else {}
    if job.edit is not None and job.edit.mask is not None:
        upload["mask"] = sign(f"{url}/files/{MASK_NAME}")
    return {"self": url, "cancel": f"{url}/cancel", "retry": f"{url}/retry", "events": f"{url}/events"} | upload


def _output(output: Output, url: str, sign: Callable[[str], str]) -> OutputView:
    files = {name: sign(f"{url}/files/{file_name(name, output.index)}") for name in output.files}
    return OutputView(**_identity(output), files=files)


def _identity(output: Output) -> dict[str, Any]:
    scores, reason = ScoresView(**output.scores.by_name()), output.scores.reason
    return {"index": output.index, "seed": output.seed, "scores": scores, "scores_reason": reason}


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
        used=WindowView(**asdict(upload.used) | {"tracks": list(upload.used.tracks)}),
    )
