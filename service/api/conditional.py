"""`POST /v2a`, `POST /a2v`: one modality is uploaded, the other generated. `POST /edit`: parts of both are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from anyio import to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from model.media.edits import Mask
from model.request import RequestError
from service.api.parameters import (
    A2VParameters,
    EditParameters,
    Parameters,
    V2AParameters,
    allowed,
    parse_json,
    refuse,
    refuse_parameter,
)
from service.api.problems import FieldError, Problem
from service.api.submission import ACCEPTED, Submission, SubmissionHere, answers
from service.api.uploads import Upload, receive_upload, room_on_disk, temporary_file
from service.jobs.edit_plan import check_edit
from service.jobs.intake import JobRequest, Source, build_job, probe_limits, probe_source
from service.jobs.record import Job
from service.sandbox.probe import ProbeError, ProbeResult

router = APIRouter(tags=["make"])

T = TypeVar("T")

_VIDEO = ("video/mp4", "video/quicktime", "video/webm", "video/x-matroska")
_AUDIO = ("audio/wav", "audio/mpeg", "audio/mp4", "audio/flac", "audio/ogg")

_OBJECTS = ("webhook", "mix", "retake", "extend", "region")
"""Form fields that hold JSON objects."""

_ANSWERS = answers(400, 408, 409, 410, 413, 415, 422, 507)


def form_body(model: type[Parameters], *media_types: str, mask: bool = False) -> dict[str, Any]:
    """OpenAPI description of the form, which `receive_upload` parses; `media_types`: usual types of the file. `mask`:
    it takes a mask picture too."""
    schema = model.model_json_schema()
    file = {"type": "string", "format": "binary", "description": "the upload"}
    picture = {
        "type": "string",
        "format": "binary",
        "description": "for `region`: a PNG, white where the picture is made anew; scaled to the video's size",
    }
    params = {"type": "string", "description": "all parameters as one JSON object, instead of separate fields"}
    files = {"file": file, "mask": picture} if mask else {"file": file}
    schema["properties"] = {**files, "params": params, **without_null(schema["properties"])}
    schema["required"] = ["file"]
    types = {"file": {"contentType": ", ".join(media_types)}} | ({"mask": {"contentType": "image/png"}} if mask else {})
    form = {"schema": schema, "encoding": types}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": form}}}


def without_null(properties: dict[str, Any]) -> dict[str, Any]:
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


@router.post("/edit", **ACCEPTED, responses=_ANSWERS, openapi_extra=form_body(EditParameters, *_VIDEO, mask=True))
async def edit(request: Request, submission: SubmissionHere) -> JSONResponse:
    """Make parts of a video anew, in place: spans of sound or pictures (`retake`), more at either end (`extend`), or a
    part of the picture (`region`). Everything else stays as it is."""
    return await _submit("edit", EditParameters, request, submission)


async def _submit(
    kind: Literal["v2a", "a2v", "edit"],
    model: type[V2AParameters | A2VParameters | EditParameters],
    request: Request,
    submission: Submission,
) -> JSONResponse:
    """Receive the upload, probe it, build the job and commit it."""
    services = submission.services
    await submission.check_room()
    try:
        limits, caller = services.concurrency, submission.caller.name
        async with receive_upload(request, services.settings, limits, caller, mask=kind == "edit") as upload:
            parameters = read_fields(model, upload.fields)
            asked = {"kind": kind, "parameters": parameters.asked(), "file": upload.source.sha256}
            if upload.mask is not None:
                asked["mask"] = upload.mask.sha256
            if isinstance(parameters, EditParameters):
                check_asked_edit(parameters, upload.mask is not None)
            accepted = await submission.replay(asked)
            if accepted is None:
                wanted = await submission.job_request(kind, parameters)
                async with _mask(wanted, upload, submission) as (wanted, mask):
                    found = await probe_upload(wanted, upload.source, submission)
                    job = build_from_upload(wanted, upload.source, found, submission, parameters)
                    accepted = await submission.commit(asked, job, upload.source.path, mask)
    except Problem as problem:
        services.metrics.refused(kind, problem.code)
        raise
    if not accepted.replayed:
        services.metrics.uploaded(kind, upload.source.bytes)
    return await submission.answer(accepted)


def check_asked_edit(parameters: EditParameters, has_mask: bool) -> None:
    """Raise Problem for an edit that no upload allows."""
    try:
        check_edit(parameters.edit(), has_mask)
    except RequestError as error:
        raise refuse_parameter(error, _given(parameters, error.field)) from error


@asynccontextmanager
async def _mask(
    wanted: JobRequest, upload: Upload, submission: Submission
) -> AsyncIterator[tuple[JobRequest, Path | None]]:
    """The request with its mask, and the mask as a temporary file. Raises Problem, ProbeUnavailableError."""
    services, mask = submission.services, upload.mask
    if mask is None or wanted.edit is None:
        yield wanted, None
        return
    settings = services.settings
    with temporary_file(settings.temporary, settings.disk_reserve_mib * 2**20) as (path, file):
        with room_on_disk():
            file.write(mask.data)
            file.flush()
        probe = partial(services.prober.probe_mask, path, probe_limits(wanted, settings))
        width, height = await _probed(probe, mask.filename, submission)
        described = Mask(mask.filename, len(mask.data), mask.sha256, width, height, key="")
        yield replace(wanted, edit=replace(wanted.edit, mask=described)), path


async def probe_upload(wanted: JobRequest, source: Source, submission: Submission) -> ProbeResult:
    """Probe the upload in a slot of the caller's share. Raises Problem, ProbeUnavailableError."""
    services = submission.services
    probe = partial(probe_source, wanted, source, services.prober.probe, services.settings)
    return await _probed(probe, source.filename, submission)


async def _probed(probe: Callable[[], T], filename: str, submission: Submission) -> T:
    services = submission.services
    try:
        async with services.threads.probes.slot(submission.caller.name):
            return await to_thread.run_sync(probe, limiter=services.threads.probing)
    except ProbeError as error:
        wrong = FieldError(error.field, error.got, error.allowed)
        raise Problem(error.status, error.code, f"{filename}: {error.message}.", [wrong]) from error


def _given(parameters: Parameters, field: str) -> Any:
    """The value of a field, or of a field of it such as `retake.audio.0`."""
    value: Any = parameters.model_dump()
    for part in field.split("."):
        if isinstance(value, list):
            value = value[int(part)]
            continue
        value = value.get(part) if isinstance(value, dict) else None
    return value


def build_from_upload(
    wanted: JobRequest, source: Source, found: ProbeResult, submission: Submission, parameters: Parameters
) -> Job:
    """The job. Raises Problem if the upload does not allow `parameters`."""
    try:
        return build_job(wanted, submission.services.settings, source, found)
    except RequestError as error:
        raise refuse_parameter(error, _given(parameters, error.field)) from error


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
