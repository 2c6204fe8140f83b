"""`/jobs`: what became of the caller's jobs, and what can still be done about them."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from service.api.auth import CallerHere
from service.api.etags import is_unchanged
from service.api.examples import JOB
from service.api.lookup import ID_PATTERN, JobId, Viewer, find, look
from service.api.middleware import privacy
from service.api.problems import Problem, responses
from service.api.schemas import JobList, JobView
from service.api.services import Services, ServicesHere
from service.api.submission import ACCEPTED, Accepted, UnhurriedSubmissionHere, answers
from service.api.uploads import room_on_disk
from service.jobs.record import IllegalTransition, Job, Status, new_job, new_job_id, storage_prefix
from service.jobs.store import UnknownJob
from service.log import log
from service.storage import ObjectNotFound

router = APIRouter(tags=["jobs"])

_UNCHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "the client has this version already"}}
_CANCELED: dict[int | str, dict[str, Any]] = {
    200: {"description": "it was waiting, and is canceled"},
    202: {"description": "it is running, and will be stopped", "model": JobView},
}


@router.get("/jobs", response_model=JobList, responses=responses(422, 503))
@router.head("/jobs", include_in_schema=False)
def jobs(
    request: Request,
    services: ServicesHere,
    caller: CallerHere,
    status: Annotated[Status | None, Query(description="only jobs in this state")] = None,
    kind: Annotated[Literal["generate", "v2a", "a2v"] | None, Query(description="only jobs of this kind")] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="how many at most")] = 20,
    after: Annotated[
        str | None, Query(pattern=ID_PATTERN, examples=[JOB["id"]], description="`next` of the part before")
    ] = None,
) -> JobList:
    """The caller's jobs, newest first."""
    found, following = services.store.page(status, kind, caller.name, after, limit)
    view = Viewer(request, services, caller)
    return JobList(data=[view(job) for job in found], has_more=following is not None, next=following)


@router.get("/jobs/{job_id}", response_model=JobView, responses=_UNCHANGED | responses(404, 410, 503))
@router.head("/jobs/{job_id}", include_in_schema=False)
def job(job_id: JobId, request: Request, services: ServicesHere, caller: CallerHere) -> Response:
    """Where the job is: status, stage, step and progress; once completed, where its files are."""
    body = Viewer(request, services, caller).show(look(services, caller, job_id)).model_dump_json().encode()
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": privacy(services.settings)}
    if is_unchanged(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)


@router.delete("/jobs/{job_id}", status_code=204, response_class=Response, responses=responses(403, 404, 503))
def delete(job_id: JobId, services: ServicesHere, caller: CallerHere) -> Response:
    """Stop the job if it runs, and erase its record, upload and results. May be repeated."""
    try:
        services.retention.erase(find(services, caller, job_id))
        log.info("job deleted", job=job_id)
    except Problem as problem:
        if problem.status_code != 410:  # what is gone already is as it should be
            raise
    return Response(status_code=204)


@router.post("/jobs/{job_id}/cancel", response_model=JobView, responses=_CANCELED | responses(403, 404, 409, 410, 503))
def cancel(job_id: JobId, request: Request, services: ServicesHere, caller: CallerHere) -> JSONResponse:
    """Stop the job. One that waits is canceled at once, a running one within a step."""
    find(services, caller, job_id)
    try:
        record = services.store.request_cancel(job_id)
    except IllegalTransition as error:
        raise Problem(409, "already_ended", f"{job_id} has ended: there is nothing left to cancel.") from error
    except UnknownJob as error:
        raise Problem(410, "gone", f"{job_id} was erased meanwhile.") from error
    view = Viewer(request, services, caller)(record)
    return JSONResponse(view.model_dump(mode="json"), 200 if record.status.ended else 202)


@router.post("/jobs/{job_id}/retry", **ACCEPTED, responses=answers(404, 409, 410, 422, 507, waits=False))
async def retry(job_id: JobId, submission: UnhurriedSubmissionHere) -> JSONResponse:
    """Make a new job with the same upload and the same parameters, the seed included."""
    services = submission.services

    def repeat() -> Accepted:
        job = find(services, submission.caller, job_id)
        temporary = services.settings.temporary
        with room_on_disk(), tempfile.TemporaryDirectory(dir=_made(temporary), prefix="retry-") as folder:
            return submission.submit({"retry": job_id}, lambda: _again(services, job, Path(folder) / "input"))

    return await submission.answer(await run_in_threadpool(repeat))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _again(services: Services, job: Job, file: Path) -> tuple[Job, Path | None]:
    """A job like `job`, and at `file` a copy of its upload, so that each has its own. Raises Problem 410."""
    job_id = new_job_id()
    upload = job.input
    if upload is not None:
        try:
            services.storage.download(upload.key, file)
        except ObjectNotFound as error:
            raise Problem(410, "upload_gone", f"The upload of {job.id} is no longer kept.") from error
        upload = replace(upload, key=f"{storage_prefix(job_id)}{upload.name}")
    again = new_job(
        job.kind,
        job.model,
        job.params,
        priority=job.priority,
        metadata=job.metadata,
        retention=services.settings.retention,
        job_id=job_id,
        input=upload,
        owner=job.owner,
        retried_from=job.id,
        webhook=job.webhook,
    )
    return again, file if upload is not None else None
