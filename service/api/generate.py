"""`POST /generate`, and what all three submitting routes share."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from service.api.parameters import GenerateParameters, json_parameters
from service.api.problems import responses
from service.api.schemas import JobView, job_view
from service.api.services import Services, ServicesHere, prefix
from service.jobs.queue import QueueUnavailable
from service.jobs.record import Job, new_job
from service.jobs.store import StoreUnavailable
from service.log import log

router = APIRouter(tags=["make"])

ACCEPTED: dict[str, Any] = {"status_code": 202, "response_model": JobView, "response_description": "the job, queued"}
"""How a submitting route describes its answer."""


def json_body(model: type[GenerateParameters]) -> dict[str, Any]:
    """The description of a JSON body that is read by hand."""
    return {"requestBody": {"content": {"application/json": {"schema": model.model_json_schema()}}}}


@router.post(
    "/generate", **ACCEPTED, responses=responses(400, 413, 415, 422, 503), openapi_extra=json_body(GenerateParameters)
)
def generate(
    request: Request, services: ServicesHere, parameters: Annotated[GenerateParameters, Depends(json_parameters)]
) -> JSONResponse:
    """Make a sounding video from nothing. The body may be empty: every parameter has a default."""
    manifest = services.catalogue.find(parameters.model)
    job = new_job(
        "generate",
        manifest.name,
        parameters.sampling("generate", manifest),
        priority=parameters.priority,
        metadata=parameters.metadata,
        retention=services.settings.retention,
    )
    return submit(services, job, prefix(request))


def submit(services: Services, job: Job, prefix: str) -> JSONResponse:
    """Write the record, wake a worker, answer 202.

    Raises StoreUnavailable or QueueUnavailable; then the record is gone again, as far as Redis lets us know.
    """
    services.store.create(job)
    try:
        services.queue.enqueue(job)
    except QueueUnavailable:
        _take_back(services, job)
        raise
    log.info("job accepted", job=job.id, kind=job.kind, model=job.model, priority=job.priority)
    view = job_view(job, None, services.store.queue_position(job), prefix)
    headers = {"Location": view.urls["self"], "Retry-After": "2"}
    return JSONResponse(view.model_dump(mode="json"), 202, headers)


def _take_back(services: Services, job: Job) -> None:
    try:
        services.store.delete(job.id)
    except StoreUnavailable as error:
        log.error("a refused job may stay recorded", job=job.id, error=str(error))
