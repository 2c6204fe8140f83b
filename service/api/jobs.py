"""`GET /jobs/{id}`: one job."""

from __future__ import annotations

import hashlib

from fastapi import APIRouter, Request, Response

from service.api.etags import is_unchanged
from service.api.problems import Problem, responses
from service.api.schemas import JobView, job_view
from service.api.services import Services, ServicesHere, prefix
from service.jobs.record import Job, Status
from service.jobs.store import UnknownJob

router = APIRouter(tags=["jobs"])


def find(services: Services, job_id: str) -> Job:
    """The job. Raises Problem 404."""
    try:
        return services.store.get(job_id)
    except UnknownJob as error:
        raise Problem(404, "unknown_job", f"There is no job {job_id}.") from error


@router.get("/jobs/{job_id}", response_model=JobView, responses=responses(404, 503))
@router.head("/jobs/{job_id}", include_in_schema=False)
def job(job_id: str, request: Request, services: ServicesHere) -> Response:
    """Where the job is: status, stage, step and progress; once completed, where its files are."""
    record = find(services, job_id)
    progress = services.store.progress_of(record) if not record.status.ended else None
    position = services.store.queue_position(record) if record.status is Status.QUEUED else None
    body = job_view(record, progress, position, prefix(request)).model_dump_json().encode()
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if is_unchanged(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)
