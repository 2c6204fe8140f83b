"""`POST /generate`: a sounding video from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from service.api import examples
from service.api.parameters import GenerateParameters, json_parameters
from service.api.submission import ACCEPTED, Accepted, SubmissionHere, answers
from service.api.webhooks import accepted
from service.jobs.record import Job, new_job

router = APIRouter(tags=["make"])


def json_body(model: type[GenerateParameters]) -> dict[str, Any]:
    """The description of a JSON body that is read by hand."""
    content = {"schema": model.model_json_schema(), "examples": examples.GENERATE}
    return {"requestBody": {"content": {"application/json": content}}}


@router.post(
    "/generate",
    **ACCEPTED,
    responses=answers(400, 409, 410, 413, 415, 422),
    openapi_extra=json_body(GenerateParameters),
)
async def generate(
    submission: SubmissionHere, parameters: Annotated[GenerateParameters, Depends(json_parameters)]
) -> JSONResponse:
    """Make a sounding video from nothing. The body may be empty: every parameter has a default."""
    services = submission.services

    def make() -> tuple[Job, Path | None]:
        manifest = services.catalogue.find(parameters.model)
        job = new_job(
            "generate",
            manifest.name,
            parameters.sampling("generate", manifest),
            priority=parameters.priority,
            metadata=parameters.metadata,
            retention=services.settings.retention,
            owner=submission.caller.name,
            webhook=accepted(parameters.webhook, services.settings),
        )
        return job, None

    def submit() -> Accepted:
        return submission.submit({"kind": "generate", "parameters": parameters.model_dump()}, make)

    return await submission.answer(await run_in_threadpool(submit))
