"""Creates the job of a video: reads the request, examines the upload, and submits the job."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from urllib.parse import parse_qsl

from fastapi import Request
from python_multipart.multipart import parse_options_header

from model.checkpoint.manifest import Manifest
from model.request import RequestError, SamplingParams
from service.api.conditional import build_from_upload, check_asked_edit, probe_upload
from service.api.parameters import EditParameters, refuse_parameter
from service.api.problems import FieldError, Problem
from service.api.submission import Accepted, Submission
from service.api.uploads import MAX_FIELDS, receive_upload
from service.api.videos.fields import FILE, VideoParameters, from_form, from_json
from service.jobs.intake import JobRequest, Kind, Source, build_job
from service.jobs.record import Job
from service.sandbox.probe import ProbeResult

FORM, URLENCODED, JSON = "multipart/form-data", "application/x-www-form-urlencoded", "application/json"


async def create(request: Request, submission: Submission) -> Accepted:
    """The job for the request, in the queue. Raises Problem, StoreUnavailable, QueueUnavailable, StorageUnavailable,
    ProbeUnavailableError."""
    kind = "videos"
    try:
        await submission.check_room()
        async with _received(request, submission) as (given, source):
            asked = {"videos": given.asked(), "file": source.sha256 if source else None}
            accepted = await submission.replay(asked)
            if accepted is None:
                try:
                    job = await _job(given, source, submission)
                except Problem as problem:
                    raise given.in_dialect(problem) from problem
                kind = job.kind
                accepted = await submission.commit(asked, job, source.path if source else None)
    except Problem as problem:
        submission.services.metrics.refused(kind, problem.code)
        raise
    if source is not None and not accepted.replayed:
        submission.services.metrics.uploaded(kind, source.bytes)
    return accepted


@asynccontextmanager
async def _received(request: Request, submission: Submission) -> AsyncIterator[tuple[VideoParameters, Source | None]]:
    """The fields of the request and its file, which exists as long as the context is open. Raises as `receive_upload`,
    and Problem for another type of body."""
    name, _ = parse_options_header(request.headers.get("content-type"))
    media_type = name.decode("latin-1")
    if media_type == FORM:
        services, caller = submission.services, submission.caller.name
        limits = services.concurrency
        async with receive_upload(request, services.settings, limits, caller, field=FILE, optional=True) as upload:
            yield from_form(upload.fields), upload.source if upload.has_file else None
        return
    body = await request.body()
    if media_type == JSON or media_type.endswith("+json"):
        yield from_json(body), None
    elif media_type == URLENCODED or not body:
        yield from_form(_pairs(body)), None
    else:
        raise Problem(415, "unsupported_media_type", f"The body must be {FORM}, {URLENCODED} or {JSON}.")


def _pairs(body: bytes) -> dict[str, str]:
    """The fields of an urlencoded form. Raises Problem 400, 422."""
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
    except ValueError as error:
        raise Problem(400, "malformed", f"The form cannot be read: {error}.") from error
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        wrong = FieldError(twice, "more than one", "each field once")
        raise Problem(422, "invalid_parameter", f"Invalid value: {twice}.", [wrong])
    return fields


async def _job(given: VideoParameters, source: Source | None, submission: Submission) -> Job:
    """The record of the job that the request asks for. Raises Problem, ProbeUnavailableError."""
    manifest = await submission.model(given.model)
    if source is None:
        if given.edits:
            missing = FieldError(FILE, None, "the video to edit")
            raise Problem(422, "missing_file", "An edit needs a video.", [missing])
        wanted = await submission.job_request("generate", given.parameters("generate", manifest))
        try:
            return build_job(wanted, submission.services.settings)
        except RequestError as error:
            raise refuse_parameter(error, getattr(wanted.params, error.field)) from error
    kind, found = await _examined(given, manifest, source, submission)
    parameters = given.parameters(kind, manifest)
    if isinstance(parameters, EditParameters):
        check_asked_edit(parameters, has_mask=False)
    wanted = await submission.job_request(kind, parameters)
    return build_from_upload(wanted, source, found, submission, parameters)


async def _examined(
    given: VideoParameters, manifest: Manifest, source: Source, submission: Submission
) -> tuple[Kind, ProbeResult]:
    """The kind of job for the upload, v2a for a video and a2v for a sound, and the result of its probe."""
    params = SamplingParams(seed=0, duration=given.duration(manifest))
    wanted = JobRequest("edit" if given.edits else "v2a", manifest, params, start=given.start)
    try:
        return wanted.kind, await probe_upload(wanted, source, submission)
    except Problem as problem:
        if given.edits or problem.code != "no_video_track":
            raise
    return "a2v", await probe_upload(replace(wanted, kind="a2v"), source, submission)
