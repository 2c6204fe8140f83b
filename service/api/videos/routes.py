"""The routes of `/v1/videos`. Jobs, limits, access and files are those of all other routes."""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any, Literal
from urllib.parse import quote

from anyio import to_thread
from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.requests import ClientDisconnect

from service.api.auth import CallerHere
from service.api.examples import VIDEO
from service.api.files import file_key, object_response
from service.api.jobs import erase
from service.api.limits import stream_slot
from service.api.lookup import find, look
from service.api.problems import Problem, unavailable
from service.api.services import Services, ServicesHere, prefix
from service.api.submission import Submission, UnhurriedSubmissionHere
from service.api.videos.creation import create
from service.api.videos.description import body, errors, media
from service.api.videos.view import (
    Video,
    VideoDeleted,
    VideoList,
    inference_time,
    job_id,
    stage_durations,
    video_id,
    video_view,
)
from service.jobs.connection import StoreUnavailable
from service.jobs.record import IllegalTransition, Job, Status
from service.jobs.records import JobSnapshot, UnknownJob
from service.jobs.view import file_name
from service.log import log
from service.storage import StorageUnavailable


class _VideoConvertor(StringConvertor):
    """A segment of a path other than `sync`, which is a route of its own and supports no other method than POST."""

    regex = r"(?!sync$)[^/]+"


register_url_convertor("video", _VideoConvertor())

router = APIRouter(prefix="/videos", tags=["videos"])

_ID = r"^video_[0-9A-HJKMNP-TV-Z]{26}$"
_FILES = {"video": "video.mp4", "thumbnail": "poster.webp"}
_PRINTABLE = string.punctuation + " "
"""Characters other than letters and digits that a header keeps as they are."""

_NOT_THERE = ("not_ready", "job_failed", "job_canceled")

VideoId = Annotated[str, Path(description="video id", examples=[VIDEO["id"]], json_schema_extra={"pattern": _ID})]
"""Path parameter. Not validated: an invalid id is an unknown video."""

_BODY = body()
_REFUSALS = (400, 403, 404, 408, 409, 413, 507)
_PARTIAL: dict[int | str, dict[str, Any]] = {
    200: {"description": "the file", "content": media("video/mp4", "image/webp")},
    206: {"description": "the requested range", "content": media("video/mp4", "image/webp")},
    304: {"description": "not modified"},
}
_MADE: dict[int | str, dict[str, Any]] = {200: {"description": "the video", "content": media("video/mp4")}}


@router.post("", response_model=Video, responses=errors(*_REFUSALS), openapi_extra=_BODY)
async def create_video(request: Request, submission: UnhurriedSubmissionHere) -> JSONResponse:
    """Create a video with sound; without an upload, from nothing. The response comes at once; poll the video."""
    accepted = await create(request, submission)
    headers = {"Location": f"{prefix(request)}/videos/{video_id(accepted.job.id)}"}
    if accepted.replayed:
        headers["Idempotency-Replayed"] = "true"
    view = await run_in_threadpool(_view, submission.services, accepted.job)
    return JSONResponse(view.model_dump(mode="json"), headers=headers)


@router.post("/sync", response_class=Response, responses=_MADE | errors(*_REFUSALS, 500, 504), openapi_extra=_BODY)
async def create_video_and_wait(request: Request, submission: UnhurriedSubmissionHere) -> Response:
    """Create a video and return its file once it is completed, after DUET_MAX_SYNC_S at most. If the client disconnects
    the job is canceled, unless an Idempotency-Key can ask for it again."""
    services = submission.services
    async with stream_slot(services, submission.caller):
        accepted = await create(request, submission)
        path = f"{prefix(request)}/videos/{video_id(accepted.job.id)}"
        with _final(submission, path):
            job = await submission.until_ended(accepted.job, services.settings.max_sync_s)
            if not job.status.ended and await request.is_disconnected():
                if not submission.repeatable:
                    await run_in_threadpool(_cancel, services, job)
                raise ClientDisconnect
            job = await run_in_threadpool(find, services, submission.caller, job.id)
            if job.status is not Status.COMPLETED:
                raise _unfinished(job, submission, path)
            response = await _file(request, services, job, "video")
    response.headers["X-Video-Id"] = video_id(job.id)
    response.headers["X-Model"] = quote(job.model, safe=_PRINTABLE, errors="replace")
    response.headers["X-Inference-Time-S"] = f"{inference_time(job) or 0:.3f}"
    response.headers["X-Stage-Durations"] = json.dumps(stage_durations(job), separators=(",", ":"))
    if accepted.replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return response


@router.get("", response_model=VideoList, responses=errors(400))
@router.head("", include_in_schema=False)
def list_videos(
    services: ServicesHere,
    caller: CallerHere,
    after: Annotated[
        str | None, Query(pattern=_ID, examples=[VIDEO["id"]], description="`last_id` of the previous page")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="videos per page")] = 20,
    order: Annotated[Literal["asc", "desc"], Query(description="oldest or newest first")] = "desc",
) -> VideoList:
    """The caller's videos: the results of all jobs, also of those that other routes made."""
    begin = None if after is None else job_id(after)
    found, following = services.store.page(owner=caller.name, after=begin, limit=limit, oldest_first=order == "asc")
    shown = [video_view(each, services.catalogue.manifests) for each in services.store.snapshots(found)]
    ids = [each.id for each in shown]
    last = video_id(following) if following is not None else ids[-1] if ids else None
    return VideoList(data=shown, has_more=following is not None, first_id=ids[0] if ids else None, last_id=last)


@router.get("/{video_id:video}", response_model=Video, responses=errors(404))
@router.head("/{video_id:video}", include_in_schema=False)
def retrieve_video(video_id: VideoId, services: ServicesHere, caller: CallerHere) -> Video:
    """Status and progress of the video."""
    return video_view(look(services, caller, job_id(video_id)), services.catalogue.manifests)


@router.delete("/{video_id:video}", response_model=VideoDeleted, responses=errors(403, 404))
async def delete_video(video_id: VideoId, services: ServicesHere, caller: CallerHere) -> VideoDeleted:
    """Stop the job if it runs, and delete its record, upload and results. Idempotent."""
    await erase(services, caller, job_id(video_id))
    return VideoDeleted(id=video_id, deleted=True)


@router.get("/{video_id}/content", response_class=Response, responses=_PARTIAL | errors(400, 404, 416))
@router.head("/{video_id}/content", include_in_schema=False)
async def video_content(
    video_id: VideoId,
    request: Request,
    services: ServicesHere,
    caller: CallerHere,
    variant: Annotated[
        Literal["video", "thumbnail"],
        Query(description="`video`: the MP4; `thumbnail`: a sharp frame as WebP. Duet makes no `spritesheet`"),
    ] = "video",
) -> Response:
    """The file of a completed video; with several outputs, that of the first."""
    job = await run_in_threadpool(find, services, caller, job_id(video_id))
    try:
        return await _file(request, services, job, variant)
    except Problem as problem:
        if problem.code in _NOT_THERE:  # clients repeat requests that get 409
            raise Problem(404, problem.code, problem.detail) from problem
        raise


def _view(services: Services, job: Job) -> Video:
    """The job as a video. If Redis is away, without its progress: the acceptance stands."""
    try:
        snapshot = services.store.snapshots([job])[0]
    except StoreUnavailable as error:
        log.warning("Redis is unavailable after a job was accepted", job=job.id, error=str(error))
        snapshot = JobSnapshot(job, None, None, ())
    return video_view(snapshot, services.catalogue.manifests)


async def _file(request: Request, services: Services, job: Job, variant: str) -> Response:
    """A file of the first output that is kept. Raises Problem, StorageUnavailable."""
    index = next((output.index for output in job.outputs if output.files), 0)
    name = file_name(_FILES[variant], index)
    respond = partial(object_response, request, services, file_key(job, name), name)
    return await to_thread.run_sync(respond, limiter=services.storage_threads)


def _cancel(services: Services, job: Job) -> None:
    """Cancel a job that nobody waits for any more."""
    try:
        services.store.request_cancel(job.id)
        log.info("job canceled: the client disconnected", job=job.id)
    except (IllegalTransition, UnknownJob):
        pass  # it has ended or was deleted meanwhile


@contextmanager
def _final(submission: Submission, path: str) -> Iterator[None]:
    """Keep clients from repeating a request whose video at `path` exists already: another would be made.

    OpenAI's clients obey `X-Should-Retry`. With an Idempotency-Key they may repeat what was only unavailable (503).
    """
    try:
        yield
    except (Problem, StoreUnavailable, StorageUnavailable) as error:
        if isinstance(error, Problem):
            problem = error
        else:
            log.error("outage", kind=type(error).__name__, error=str(error))
            problem = unavailable(error)
        headers = {**(problem.headers or {}), "Location": path}
        if problem.status_code != 503 or not submission.repeatable:
            headers.pop("Retry-After", None)
            headers["X-Should-Retry"] = "false"
        raise Problem(problem.status_code, problem.code, problem.detail, problem.errors, headers) from error


def _unfinished(job: Job, submission: Submission, path: str) -> Problem:
    """The error for a video that has failed or takes too long."""
    name = video_id(job.id)
    if job.status is Status.CANCELED:
        return Problem(400, "job_canceled", f"{name} was canceled.")
    if job.error is not None:
        status = 400 if job.error.code in ("undecodable_input", "invalid_request") else 500
        return Problem(status, job.error.code, f"{name} failed: {job.error.message}.")
    if submission.services.events.closing:
        detail = f"The server stops. {name} goes on: GET {path}."
        return Problem(503, "not_ready", detail, headers={"Retry-After": "2"})
    limit = f"{submission.services.settings.max_sync_s:g} s"
    return Problem(504, "not_ready", f"{name} takes longer than {limit}, and goes on: GET {path}.")
