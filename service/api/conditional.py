"""`POST /v2a`, `POST /a2v`: one modality is uploaded, the other generated."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from model.request import RequestError
from service.api.parameters import (
    A2VParameters,
    Parameters,
    V2AParameters,
    allowed,
    parse_json,
    refuse,
    refuse_parameter,
)
from service.api.problems import FieldError, Problem
from service.api.submission import ACCEPTED, Submission, SubmissionHere, answers
from service.api.uploads import receive_upload
from service.jobs.intake import JobRequest, Source, build_job, probe_source
from service.jobs.record import Job
from service.sandbox.probe import ProbeError, ProbeResult

router = APIRouter(tags=["make"])

_VIDEO = ("video/mp4", "video/quicktime", "video/webm", "video/x-matroska")
_AUDIO = ("audio/wav", "audio/mpeg", "audio/mp4", "audio/flac", "audio/ogg")

_OBJECTS = ("webhook", "mix")
"""Form fields that hold JSON objects."""

_ANSWERS = answers(400, 408, 409, 410, 413, 415, 422, 507)


def form_body(model: type[Parameters], *media_types: str) -> dict[str, Any]:
    """OpenAPI description of the form, which `receive_upload` parses; `media_types`: usual types of the file."""
    schema = model.model_json_schema()
    file = {"type": "string", "format": "binary", "description": "the upload"}
    params = {"type": "string", "description": "all parameters as one JSON object, instead of separate fields"}
    schema["properties"] = {"file": file, "params": params, **_without_null(schema["properties"])}
    schema["required"] = ["file"]
    form = {"schema": schema, "encoding": {"file": {"contentType": ", ".join(media_types)}}}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": form}}}


def _without_null(properties: dict[str, Any]) -> dict[str, Any]:
    """The properties without null: a form field is present or absent."""
    plain = {}
    for name, field in properties.items():
        choices = [choice for choice in field.get("anyOf", [{}]) if choice.get("type") != "null"]
        rest = {key: value for key, value in field.items() if key != "default" or value is not None}
        rest.pop("anyOf", None)
        plain[name] = {**rest, **(choices[0] if len(choices) == 1 else {"anyOf": choices})}
    return plain


@router.post("/v2a", **ACCEPTED, responses=_ANSWERS, openapi_extra=form_body(V2AParameters, *_VIDEO))
async def v2a(request: Request, submission: SubmissionHere) -> JSONResponse:
    """Generate sound for a video. The result keeps the uploaded frames."""
    return await _submit("v2a", V2AParameters, request, submission)


@router.post("/a2v", **ACCEPTED, responses=_ANSWERS, openapi_extra=form_body(A2VParameters, *_AUDIO, *_VIDEO))
async def a2v(request: Request, submission: SubmissionHere) -> JSONResponse:
    """Generate video for a sound, or for the sound of a video. The result keeps the uploaded sound."""
    return await _submit("a2v", A2VParameters, request, submission)


async def _submit(
    kind: Literal["v2a", "a2v"],
    model: type[V2AParameters | A2VParameters],
    request: Request,
    submission: Submission,
) -> JSONResponse:
    """Receive the upload, probe it, build the job and commit it."""
    services = submission.services
    await submission.check_room()
    try:
        async with receive_upload(request, services.settings, services.concurrency, submission.caller.name) as upload:
            parameters = read_fields(model, upload.fields)
            asked = {"kind": kind, "parameters": parameters.asked(), "file": upload.source.sha256}
            accepted = await submission.replay(asked)
            if accepted is None:
                wanted = await submission.job_request(kind, parameters)
                found = await _probe(wanted, upload.source, submission)
                job = _build(wanted, upload.source, found, submission, parameters)
                accepted = await submission.commit(asked, job, upload.source.path)
    except Problem as problem:
        services.metrics.refused(kind, problem.code)
        raise
    if not accepted.replayed:
        services.metrics.uploaded(kind, upload.source.bytes)
    return await submission.answer(accepted)


async def _probe(wanted: JobRequest, source: Source, submission: Submission) -> ProbeResult:
    """Probe the upload in a slot of the caller's share. Raises Problem, ProbeUnavailableError."""
    services = submission.services
    probe = partial(probe_source, wanted, source, services.prober.probe, services.settings)
    try:
        async with services.threads.probes.slot(submission.caller.name):
            return await to_thread.run_sync(probe, limiter=services.threads.probing)
    except ProbeError as error:
        wrong = FieldError(error.field, error.got, error.allowed)
        raise Problem(error.status, error.code, f"{source.filename}: {error.message}.", [wrong]) from error


def _build(
    wanted: JobRequest, source: Source, found: ProbeResult, submission: Submission, parameters: Parameters
) -> Job:
    """The job. Raises Problem if the upload does not allow `parameters`."""
    try:
        return build_job(wanted, submission.services.settings, source, found)
    except RequestError as error:
        raise refuse_parameter(error, parameters.model_dump()[error.field]) from error


def read_fields(model: type[Parameters], fields: dict[str, str]) -> Any:
    """Parameters from separate form fields, or from the field `params`, a JSON object. Raises Problem 400, 422."""
    try:
        if "params" not in fields:
            given: dict[str, Any] = dict(fields)
            if "metadata" in given:
                given["metadata"] = _metadata(model, given["metadata"])
            objects = {name: _json(name, given.pop(name)) for name in _OBJECTS if name in given}
            parameters = model.model_validate_strings(given)
            # Validated as JSON: they contain lists and numbers, which fields read from strings cannot.
            nested = model.model_validate(objects)
            return parameters.model_copy(update={name: getattr(nested, name) for name in objects})
        if len(fields) > 1:
            others = ", ".join(name for name in fields if name != "params")
            clash = FieldError("params", others, "either params or separate fields")
            raise Problem(422, "invalid_parameter", f"With params no other fields are allowed: {others}.", [clash])
        return model.model_validate(parse_json(fields["params"], "The field params"))
    except ValidationError as error:
        raise refuse(error, model) from error


def _json(name: str, field: str) -> Any:
    """The value of a form field that can hold a JSON object. Raises Problem 400."""
    if name == "mix" and not field.lstrip().startswith("{"):
        return field  # a name, without quotation marks
    return parse_json(field, f"The field {name}")


def _metadata(model: type[Parameters], field: str) -> dict[str, str]:
    """The field `metadata`, a JSON object. Raises Problem 400, 422."""
    value = parse_json(field, "The field metadata")
    if isinstance(value, dict) and all(isinstance(each, str) for each in value.values()):
        return value
    wrong = FieldError("metadata", field, allowed(model, "metadata"))
    raise Problem(422, "invalid_parameter", "Invalid value: metadata.", [wrong])
