"""`/jobs`: list, show, delete, cancel and retry the caller's jobs."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from model.media.edits import Mask
from model.request import RequestError
from service.api.auth import Caller, CallerHere
from service.api.etags import is_unchanged
from service.api.examples import JOB
from service.api.lookup import ID_PATTERN, JobId, Viewer, find, look
from service.api.middleware import privacy
from service.api.parameters import refuse_parameter
from service.api.problems import Problem, responses
from service.api.services import Services, ServicesHere
from service.api.submission import ACCEPTED, UnhurriedSubmissionHere, answers
from service.api.uploads import room_on_disk, temporary_file
from service.jobs.intake import repeat_job
from service.jobs.record import IllegalTransition, Input, Job, Status
from service.jobs.records import UnknownJob
from service.jobs.view import JobList, JobView
from service.log import log
from service.storage import ObjectNotFound

router = APIRouter(tags=["jobs"])

_UNCHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "not modified"}}
_CANCELED: dict[int | str, dict[str, Any]] = {
    200: {"description": "the job was queued and is canceled"},
    202: {"description": "the job is running and will be stopped", "model": JobView},
}


@router.get("/jobs", response_model=JobList, responses=responses(422, 503))
@router.head("/jobs", include_in_schema=False)
def jobs(
    request: Request,
    services: ServicesHere,
    caller: CallerHere,
    status: Annotated[Status | None, Query(description="only jobs with this status")] = None,
    kind: Annotated[
        Literal["generate", "v2a", "a2v", "edit"] | None, Query(description="only jobs of this kind")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="jobs per page")] = 20,
    after: Annotated[
        str | None, Query(pattern=ID_PATTERN, examples=[JOB["id"]], description="`next` of the previous page")
    ] = None,
) -> JobList:
    """The caller's jobs, newest first."""
    found, following = services.store.page(status, kind, caller.name, after, limit)
    view = Viewer(request, services, caller)
    shown = [view.show(each) for each in services.store.snapshots(found)]
    return JobList(data=shown, has_more=following is not None, next=following)


@router.get("/jobs/{job_id}", response_model=JobView, responses=_UNCHANGED | responses(404, 410, 503))
@router.head("/jobs/{job_id}", include_in_schema=False)
def job(job_id: JobId, request: Request, services: ServicesHere, caller: CallerHere) -> Response:
    """Status, stage, step and progress of the job; the paths of its files once it is completed."""
    body = Viewer(request, services, caller).show(look(services, caller, job_id)).model_dump_json().encode()
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": privacy(services.settings)}
    if is_unchanged(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)


@router.delete("/jobs/{job_id}", status_code=204, response_class=Response, responses=responses(403, 404, 503))
async def delete(job_id: JobId, services: ServicesHere, caller: CallerHere) -> Response:
    """Stop the job if it runs, and delete its record, upload and results. Idempotent."""
    await erase(services, caller, job_id)
    return Response(status_code=204)


async def erase(services: Services, caller: Caller, job_id: str) -> None:
    """Stop and delete the caller's job. Idempotent. Raises Problem 404, StoreUnavailable."""
    try:
        job = await run_in_threadpool(find, services, caller, job_id)
        await to_thread.run_sync(services.retention.erase, job, limiter=services.storage_threads)
        log.info("job deleted", job=job_id)
    except Problem as problem:
        if problem.status_code != 410:
            raise


@router.post("/jobs/{job_id}/cancel", response_model=JobView, responses=_CANCELED | responses(403, 404, 409, 410, 503))
def cancel(job_id: JobId, request: Request, services: ServicesHere, caller: CallerHere) -> JSONResponse:
    """Cancel the job: at once if it is queued, within a step if it is running."""
    find(services, caller, job_id)
    try:
        record = services.store.request_cancel(job_id)
    except IllegalTransition as error:
        raise Problem(409, "already_ended", f"{job_id} has already ended.") from error
    except UnknownJob as error:
        raise Problem(410, "gone", f"{job_id} was deleted in the meantime.") from error
    view = Viewer(request, services, caller)(record)
    return JSONResponse(view.model_dump(mode="json"), 200 if record.status.ended else 202)


@router.post("/jobs/{job_id}/retry", **ACCEPTED, responses=answers(404, 409, 410, 422, 507, waits=False))
async def retry(job_id: JobId, submission: UnhurriedSubmissionHere) -> JSONResponse:
    """Create a new job with the same upload and the same parameters, the seed included."""
    services, asked = submission.services, {"retry": job_id}
    job = await run_in_threadpool(find, services, submission.caller, job_id)
    await submission.check_room()
    accepted = await submission.replay(asked)
    if accepted is None:
        try:
            again = repeat_job(job, services.settings)
        except RequestError as error:
            raise refuse_parameter(error, getattr(job.params, error.field, None)) from error
        mask = job.edit.mask if job.edit is not None else None
        async with (
            _copy(services, job, job.input) as file,
            _copy(services, job, mask) as mask_file,
        ):
            accepted = await submission.commit(asked, again, file, mask_file)
    return await submission.answer(accepted)


@asynccontextmanager
async def _copy(services: Services, job: Job, upload: Input | Mask | None) -> AsyncIterator[Path | None]:
    """An upload of the job as a temporary file; None if it has none. Raises Problem 410, 507; StorageUnavailable."""
    if upload is None:
        yield None
        return
    room = services.settings.disk_reserve_mib * 2**20 + upload.bytes
    with temporary_file(services.settings.temporary, room) as (path, file):

        def copy() -> None:
            with room_on_disk():
                for piece in services.storage.read(upload.key):
                    file.write(piece)
                file.flush()

        try:
            await to_thread.run_sync(copy, limiter=services.storage_threads)
        except ObjectNotFound as error:
            raise Problem(410, "upload_gone", f"The upload of {job.id} is no longer kept.") from error
        yield path
