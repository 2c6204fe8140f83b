"""`POST /generate`: unconditional generation of a video with sound."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse

from model.request import RequestError
from service.api import examples
from service.api.parameters import GenerateParameters, json_parameters, refuse_parameter
from service.api.submission import ACCEPTED, SubmissionHere, answers
from service.jobs.intake import build_job

router = APIRouter(tags=["make"])


def json_body(model: type[GenerateParameters]) -> dict[str, Any]:
    """OpenAPI description of the JSON body, which `json_parameters` parses."""
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
    """Generate a video with sound. The body may be empty: every parameter has a default."""
    asked = {"kind": "generate", "parameters": parameters.asked()}
    await submission.check_room()
    accepted = await submission.replay(asked)
    if accepted is None:
        wanted = await submission.job_request("generate", parameters)
        try:
            job = build_job(wanted, submission.services.settings)
        except RequestError as error:
            raise refuse_parameter(error, getattr(wanted.params, error.field)) from error
        accepted = await submission.commit(asked, job)
    return await submission.answer(accepted)
