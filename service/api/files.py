"""`GET /jobs/{id}/files/{name}`: uploads and results, whole or in part (RFC 9110, section 14)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Annotated, Any
from urllib.parse import quote

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from werkzeug.http import parse_range_header

from model.media.edits import MASK_NAME
from service.api.auth import MediaCallerHere
from service.api.etags import is_unchanged, range_applies
from service.api.lookup import JobId, find
from service.api.media_types import CONTENT_TYPES, content_type
from service.api.middleware import privacy
from service.api.problems import Problem, responses
from service.api.services import Services, ServicesHere
from service.jobs.record import Job, Status
from service.jobs.view import file_name, output_files
from service.storage import ObjectNotFound

router = APIRouter(tags=["jobs"])

_EMPTY_SUFFIX = re.compile(r"\s*bytes\s*=\s*-\s*0+\s*", re.IGNORECASE)
"""A suffix of no bytes, which is unsatisfiable (RFC 9110, section 14.1.2). werkzeug takes it for an invalid header."""


FileName = Annotated[
    str, Path(description="one of the names that the job gives in `outputs` and `input`", examples=["video.mp4"])
]
"""Path parameter. Not validated: an unknown name is 404, not 422."""

BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
_CONTENT = dict.fromkeys(("application/octet-stream", *CONTENT_TYPES.values()), BINARY)
_CONTENT["application/json"] = {"schema": {"type": "object"}}
_FILES: dict[int | str, dict[str, Any]] = {
    200: {"description": "the file", "content": _CONTENT},
    206: {"description": "the requested range", "content": _CONTENT},
    304: {"description": "not modified"},
}


@router.get(
    "/jobs/{job_id}/files/{name}", response_class=Response, responses=_FILES | responses(404, 409, 410, 416, 503)
)
@router.head("/jobs/{job_id}/files/{name}", include_in_schema=False)
async def file(
    job_id: JobId, name: FileName, request: Request, services: ServicesHere, caller: MediaCallerHere
) -> Response:
    """One file of a job: `video.mp4`, `audio.wav`, `poster.webp`, `spectrogram.png`, `manifest.json`, the upload as
    `input.*`, and `audio-new.wav` where sounds are mixed; further outputs have `-1`, `-2` … before the dot."""
    job = await run_in_threadpool(find, services, caller, job_id)
    respond = partial(object_response, request, services, file_key(job, name), name)
    response = await to_thread.run_sync(respond, limiter=services.storage_threads)
    if caller.signed_url:
        response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    return response


def object_response(request: Request, services: Services, key: str, name: str) -> Response:
    """The object as a response. Raises Problem 410, 416; StorageUnavailable."""
    try:
        info = services.storage.info(key)
        etag = f'"{info.etag}"'
        headers = {
            "ETag": etag,
            "Accept-Ranges": "bytes",
            "Cache-Control": privacy(services.settings),
            "Content-Disposition": f"inline; filename={quote(name)}",
            # An uploaded file must never act as a page of this service.
            "Content-Security-Policy": "default-src 'none'; sandbox",
        }
        if request.method != "POST" and is_unchanged(request.headers.get("if-none-match"), etag):
            return Response(status_code=304, headers=headers)
        part = None
        if request.method == "GET" and range_applies(request.headers.get("if-range"), etag):
            part = byte_range(request.headers.get("range"), info.size)
        start, stop = part or (0, info.size)
        if part:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{info.size}"
        headers["Content-Length"] = str(stop - start)
        status = 206 if part else 200
        if request.method == "HEAD":
            return Response(status_code=status, headers=headers, media_type=content_type(name))
        pieces = _in_threads(services.storage.read(key, start, stop), services.threads.storage)
        return StreamingResponse(pieces, status, headers, media_type=content_type(name))
    except ObjectNotFound as error:
        raise Problem(410, "gone", f"{name} is no longer kept.") from error


async def _in_threads(pieces: Iterator[bytes], limiter: CapacityLimiter) -> AsyncIterator[bytes]:
    """The pieces, each read in a thread of `limiter`."""
    while (piece := await to_thread.run_sync(next, pieces, None, limiter=limiter)) is not None:
        yield piece


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """The range of `size` bytes that a `Range` header requests: start and stop, as in a slice.

    None if the whole file is to be sent: no header, another unit, several ranges, or an invalid header, which a server
    may ignore (RFC 9110, section 14.2). Raises Problem 416 if no byte of the range exists.
    """
    if _EMPTY_SUFFIX.fullmatch(header or ""):
        raise _unsatisfiable(size)
    parsed = parse_range_header(header)
    if parsed is None or parsed.units != "bytes" or len(parsed.ranges) != 1:
        return None
    start, stop = parsed.ranges[0]
    if start < 0:
        start = max(start + size, 0)
    stop = size if stop is None else min(stop, size)
    if start >= stop:
        raise _unsatisfiable(size)
    return start, stop


def _unsatisfiable(size: int) -> Problem:
    headers = {"Content-Range": f"bytes */{size}"}
    return Problem(416, "range_not_satisfiable", f"The file has {size} bytes.", headers=headers)


def file_key(job: Job, name: str) -> str:
    """Storage key of the file. Raises Problem 404 for an unknown name, 409 for a file that does not exist yet."""
    if job.input is not None and name == job.input.name:
        return job.input.key
    if job.edit is not None and job.edit.mask is not None and name == MASK_NAME:
        return job.edit.mask.key
    for output in job.outputs:
        for plain, key in output.files.items():
            if file_name(plain, output.index) == name:
                return key
    if name in (file_name(plain, index) for plain in output_files(job) for index in range(job.params.num_outputs)):
        if job.status in (Status.FAILED, Status.CANCELED):
            raise Problem(409, f"job_{job.status}", f"The job is {job.status}, so there is no {name}.")
        if not job.status.ended:
            detail = f"{name} is not there yet: the job is {job.status}."
            raise Problem(409, "not_ready", detail, headers={"Retry-After": "2"})
    raise Problem(404, "unknown_file", f"The job has no file {name}.")
