"""A job as a video of OpenAI's dialect. Every job of Duet makes a video, so every job is one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Literal

from pydantic import Field

from model.checkpoint.manifest import Manifest
from service.api.models import resolutions
from service.api.problems import Problem
from service.jobs.record import Job, Status
from service.jobs.records import JobSnapshot
from service.jobs.view import View

PREFIX = "video_"

State = Literal["queued", "in_progress", "completed", "failed"]

_STATUSES: dict[Status, State] = {
    Status.QUEUED: "queued",
    Status.IN_PROGRESS: "in_progress",
    Status.COMPLETED: "completed",
    Status.FAILED: "failed",
    Status.CANCELED: "failed",
}


class VideoFailure(View):
    """Why a video failed."""

    code: str = Field(description="machine-readable code, such as out_of_memory, worker_died or canceled")
    message: str = Field(description="explanation for people")


class Video(View):
    """One video, whatever its state."""

    id: str = Field(description="`video_` and the 26 characters of the job's id, which sort by time")
    object: Literal["video"] = Field(default="video", description="always `video`")
    status: State = Field(description="a canceled job is a failed video")
    model: str = Field(description="name of the model, as listed by /models")
    progress: int = Field(ge=0, le=100, description="percent")
    created_at: int = Field(description="time of acceptance, in seconds since 1970")
    completed_at: int | None = Field(description="time at which it completed or failed; null before")
    expires_at: int = Field(description="time at which it is deleted")
    seconds: str = Field(description="length of the clip")
    size: str | None = Field(description="width and height in pixels; null if the model is no longer served")
    prompt: str | None = Field(description="words for the clip")
    remixed_from_video_id: str | None = Field(description="always null")
    error: VideoFailure | None = Field(description="why it failed")
    seed: int = Field(description="seed, which reproduces the clip")
    inference_time_s: float | None = Field(description="seconds from the start to the end; null before the end")
    stage_durations: dict[str, float] = Field(description="seconds of each stage; empty before the end")


class VideoList(View):
    """One page of the caller's videos."""

    object: Literal["list"] = Field(default="list", description="always `list`")
    data: list[Video] = Field(description="the videos")
    has_more: bool = Field(description="whether there is another page")
    first_id: str | None = Field(description="id of the first video of the page; null if it is empty")
    last_id: str | None = Field(description="id of the last video, the value of `after` for the next page")


class VideoDeleted(View):
    """Confirmation of a deletion."""

    id: str = Field(description="id of the video")
    object: Literal["video.deleted"] = Field(default="video.deleted", description="always `video.deleted`")
    deleted: bool = Field(description="always true")


def video_id(job_id: str) -> str:
    """The id of a job's video."""
    return PREFIX + job_id.removeprefix("job_")


def job_id(given: str) -> str:
    """The id of a video's job. Raises Problem 404 for an id of another form, such as that of the job itself."""
    if not given.startswith(PREFIX):
        raise Problem(404, "unknown_job", f"There is no such video: the id of a video begins with {PREFIX}.")
    return f"job_{given.removeprefix(PREFIX)}"


def video_view(snapshot: JobSnapshot, manifests: Mapping[str, Manifest]) -> Video:
    """The job as a video. `manifests`: the models that are served."""
    job = snapshot.job
    percent = int(100 * snapshot.progress.progress) if snapshot.progress and not job.status.ended else 0
    return Video(
        id=video_id(job.id),
        status=_STATUSES[job.status],
        model=job.model,
        progress=100 if job.status is Status.COMPLETED else min(percent, 99),
        created_at=_seconds(job.created_at),
        completed_at=_seconds(job.completed_at) if job.completed_at else None,
        expires_at=_seconds(job.expires_at),
        seconds=f"{_length(job, manifests.get(job.model)):g}",
        size=_size(job, manifests.get(job.model)),
        prompt=job.params.prompt,
        remixed_from_video_id=None,
        error=_failure(job),
        seed=job.params.seed,
        inference_time_s=inference_time(job),
        stage_durations=stage_durations(job),
    )


def inference_time(job: Job) -> float | None:
    """Seconds from the start of the last attempt to the end of the job; None for one that never began or goes on."""
    if job.started_at is None or job.completed_at is None:
        return None
    return round((job.completed_at - job.started_at).total_seconds(), 3)


def stage_durations(job: Job) -> dict[str, float]:
    """Seconds of each stage of a completed job."""
    return asdict(job.timings) if job.timings else {}


def _failure(job: Job) -> VideoFailure | None:
    if job.error is not None:
        return VideoFailure(code=job.error.code, message=job.error.message)
    if job.status is Status.CANCELED:
        return VideoFailure(code="canceled", message="The video was canceled.")
    return None


def _length(job: Job, manifest: Manifest | None) -> float:
    """Seconds of the clip; 0 if nothing says it."""
    if job.edit is not None and job.input is not None:
        return round(job.input.duration + job.edit.before + job.edit.after, 3)
    if job.params.duration is not None:
        return job.params.duration
    return manifest.config.clip.duration if manifest is not None else 0.0


def _size(job: Job, manifest: Manifest | None) -> str | None:
    if job.kind in ("v2a", "edit") and job.input is not None and job.input.video is not None:
        return f"{job.input.video.width}x{job.input.video.height}"
    for each in resolutions(manifest) if manifest is not None else ():
        if each.super_resolution == bool(job.params.super_resolution):
            return f"{each.width}x{each.height}"
    return None


def _seconds(time: datetime) -> int:
    return int(time.timestamp())
