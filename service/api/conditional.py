"""`POST /v2a`, `POST /a2v`: one side is uploaded, the other is made."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path, PurePath
from typing import Any, Literal

import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from model.networks.config import ClipSpec
from service.api.parameters import A2VParameters, Parameters, V2AParameters, allowed, parse_json, refuse
from service.api.problems import FieldError, Problem
from service.api.services import Services
from service.api.submission import ACCEPTED, Accepted, Submission, SubmissionHere, answers
from service.api.uploads import Upload, receive_upload
from service.api.webhooks import accepted
from service.jobs.record import AudioStream, Input, Job, VideoStream, Window, new_job, new_job_id, storage_prefix
from service.sandbox.probe import ProbeError, ProbeLimits, ProbeResult

router = APIRouter(tags=["make"])

_EXTENSIONS = {
    "mov": (".mp4", ".mov", ".m4a", ".m4v", ".3gp"),
    "matroska": (".mkv", ".webm", ".mka"),
    "avi": (".avi",),
    "mpegts": (".ts", ".m2ts", ".mts"),
    "gif": (".gif",),
    "mp3": (".mp3",),
    "aac": (".aac",),
    "flac": (".flac",),
    "ogg": (".ogg", ".oga", ".ogv", ".opus"),
    "wav": (".wav",),
    "aiff": (".aiff", ".aif"),
}
"""By container, as the demuxer calls itself: the usual ending, then others in use."""

_VIDEO = ("video/mp4", "video/quicktime", "video/webm", "video/x-matroska")
_AUDIO = ("audio/wav", "audio/mpeg", "audio/mp4", "audio/flac", "audio/ogg")

_ANSWERS = answers(400, 409, 410, 413, 415, 422, 507)


def form_body(model: type[Parameters], *media_types: str) -> dict[str, Any]:
    """The description of a form that is read by hand, while it comes in; `media_types`: what the file usually is."""
    schema = model.model_json_schema()
    file = {"type": "string", "format": "binary", "description": "the upload"}
    params = {"type": "string", "description": "all parameters as one JSON object, in place of single fields"}
    schema["properties"] = {"file": file, "params": params, **_without_null(schema["properties"])}
    schema["required"] = ["file"]
    form = {"schema": schema, "encoding": {"file": {"contentType": ", ".join(media_types)}}}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": form}}}


def _without_null(properties: dict[str, Any]) -> dict[str, Any]:
    """A form field is there or not: it cannot be null."""
    plain = {}
    for name, field in properties.items():
        (choice,) = [choice for choice in field.get("anyOf", [{}]) if choice.get("type") != "null"]
        rest = {key: value for key, value in field.items() if key != "default" or value is not None}
        rest.pop("anyOf", None)
        plain[name] = {**rest, **choice}
    return plain


@router.post("/v2a", **ACCEPTED, responses=_ANSWERS, openapi_extra=form_body(V2AParameters, *_VIDEO))
async def v2a(request: Request, submission: SubmissionHere) -> JSONResponse:
    """Make a sound for a video. The answer keeps the frames as they were uploaded."""
    return await _take("v2a", V2AParameters, request, submission)


@router.post("/a2v", **ACCEPTED, responses=_ANSWERS, openapi_extra=form_body(A2VParameters, *_AUDIO, *_VIDEO))
async def a2v(request: Request, submission: SubmissionHere) -> JSONResponse:
    """Make a video for a sound, or for the sound of a video. The answer keeps the sound as it was uploaded."""
    return await _take("a2v", A2VParameters, request, submission)


async def _take(
    kind: Literal["v2a", "a2v"],
    model: type[V2AParameters | A2VParameters],
    request: Request,
    submission: Submission,
) -> JSONResponse:
    services = submission.services
    await run_in_threadpool(submission.check_room)
    try:
        async with receive_upload(request, services.settings) as upload:
            judge = partial(_accept, kind, model, upload, submission)
            accepted = await anyio.to_thread.run_sync(judge, limiter=services.judges)
    except Problem as problem:
        services.metrics.refused(kind, problem.code)
        raise
    if not accepted.replayed:
        services.metrics.uploaded(kind, upload.bytes)
    return await submission.answer(accepted)


def _accept(
    kind: Literal["v2a", "a2v"], model: type[V2AParameters | A2VParameters], upload: Upload, submission: Submission
) -> Accepted:
    """Judge parameters and file, and make the job."""
    services = submission.services
    parameters = read_fields(model, upload.fields)

    def make() -> tuple[Job, Path | None]:
        manifest = services.catalogue.find(parameters.model)
        clip = manifest.config.clip
        params = parameters.sampling(kind, manifest)
        webhook = accepted(parameters.webhook, services.settings)
        found = _probe(kind, upload, parameters.start, clip, services)
        job_id = new_job_id()
        job = new_job(
            kind,
            manifest.name,
            params,
            priority=parameters.priority,
            metadata=parameters.metadata,
            retention=services.settings.retention,
            job_id=job_id,
            input=_input(job_id, upload, found, parameters.start, clip),
            owner=submission.caller.name,
            webhook=webhook,
        )
        return job, upload.path

    return submission.submit({"kind": kind, "parameters": parameters.model_dump(), "file": upload.sha256}, make)


def read_fields(model: type[Parameters], fields: dict[str, str]) -> Any:
    """Parameters from form fields, or from the one field `params` that holds them all as JSON. Raises Problem."""
    try:
        if "params" not in fields:
            given: dict[str, Any] = dict(fields)
            if "metadata" in given:
                given["metadata"] = _metadata(model, given["metadata"])
            webhook = parse_json(given.pop("webhook", "null"), "The field webhook")
            parameters = model.model_validate_strings(given)
            # With a list in it, it is no business of fields that are read from strings.
            return parameters.model_copy(update={"webhook": model.model_validate({"webhook": webhook}).webhook})
        if len(fields) > 1:
            others = ", ".join(name for name in fields if name != "params")
            clash = FieldError("params", others, "either params or single fields")
            raise Problem(422, "invalid_parameter", f"Beside params no other fields are read: {others}.", [clash])
        return model.model_validate(parse_json(fields["params"], "The field params"))
    except ValidationError as error:
        raise refuse(error, model) from error


def _metadata(model: type[Parameters], field: str) -> dict[str, str]:
    """An object, which a form field holds as JSON."""
    value = parse_json(field, "The field metadata")
    if isinstance(value, dict) and all(isinstance(each, str) for each in value.values()):
        return value
    wrong = FieldError("metadata", field, allowed(model, "metadata"))
    raise Problem(422, "invalid_parameter", "Not as allowed: metadata.", [wrong])


def _probe(
    kind: Literal["v2a", "a2v"], upload: Upload, start: float, clip: ClipSpec, services: Services
) -> ProbeResult:
    settings = services.settings
    limits = ProbeLimits(
        max_seconds=settings.max_duration_s,
        max_width=settings.max_width,
        max_height=settings.max_height,
        window=clip.duration,
    )
    try:
        return services.prober.probe(upload.path, "video" if kind == "v2a" else "audio", limits, start)
    except ProbeError as error:
        wrong = FieldError(error.field, error.got, error.allowed or error.message)
        raise Problem(error.status, error.code, f"{upload.filename}: {error.message}.", [wrong]) from error


def _input(job_id: str, upload: Upload, found: ProbeResult, start: float, clip: ClipSpec) -> Input:
    name = f"input{extension(found, upload.filename)}"
    return Input(
        filename=upload.filename,
        bytes=upload.bytes,
        sha256=upload.sha256,
        duration=round(found.duration, 6),
        video=VideoStream(**asdict(found.video)) if found.video else None,
        audio=AudioStream(**asdict(found.audio)) if found.audio else None,
        used=Window(start, round(min(clip.duration, found.duration - start), 6)),
        name=name,
        key=f"{storage_prefix(job_id)}{name}",
    )


def extension(found: ProbeResult, filename: str) -> str:
    """The ending for a file of this container: the client's own if it is one of those in use, else the usual one."""
    known = _EXTENSIONS.get(found.container.partition(",")[0], ("",))
    given = PurePath(filename).suffix.lower()
    if given in known:
        return given
    return ".m4a" if known[0] == ".mp4" and found.video is None else known[0]
