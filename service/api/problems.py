"""Errors as `application/problem+json` (RFC 9457), in the same shape for every error."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match

from service.api.description import extend_description
from service.api.openai_errors import VideosError, openai_error, speaks_openai
from service.jobs.connection import StoreTimeout, StoreUnavailable
from service.jobs.queue import QueueUnavailable
from service.jobs.record import UnreadableRecord
from service.log import log
from service.sandbox.probe import ProbeUnavailableError
from service.storage import StorageFull, StorageUnavailable

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = {"Retry-After": "5"}
"""Header of errors that a client can retry, in seconds."""

_LONGEST_ECHO = 200
"""Characters of an invalid value that the response repeats."""

_CODES = {404: "not_found", 405: "method_not_allowed"}


@dataclass(frozen=True)
class FieldError:
    """An invalid field: its value, and the allowed values in words."""

    field: str
    got: Any
    allowed: str


class Problem(HTTPException):
    """An error response. `extra` are additional members of its body."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(status, detail, headers)
        self.code = code
        self.errors = tuple(errors)
        self.extra = extra


class ProblemBody(BaseModel):
    """An error response, for the OpenAPI description."""

    model_config = ConfigDict(title="Problem", extra="allow")

    type: Literal["about:blank"] = Field(description="`code` identifies the error")
    title: str = Field(description="name of the status")
    status: int = Field(ge=400, le=599, description="HTTP status")
    detail: str = Field(description="explanation for people")
    instance: str = Field(description="path of the request")
    code: str = Field(description="machine-readable code of the error")
    request_id: str = Field(description="value of the header X-Request-ID")
    errors: list[dict[str, Any]] = Field(description="one entry for each invalid field: `field`, `got`, `allowed`")


def problem_response(request: Request, problem: Problem) -> JSONResponse:
    """The problem as a response; on the routes of OpenAI's dialect in its shape."""
    headers = dict(problem.headers or {})
    if speaks_openai(request.scope):
        fields = [(each.field, each.allowed) for each in problem.errors]
        status, error = openai_error(problem.status_code, problem.code, _sendable(problem.detail), fields)
        return JSONResponse(error, status, headers)
    body = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status_code).phrase,
        "status": problem.status_code,
        "detail": _sendable(problem.detail),
        "instance": _sendable(request.url.path),
        "code": problem.code,
        "request_id": request.scope.get("state", {}).get("request_id", ""),
        "errors": [
            {"field": _sendable(each.field), "got": _echo(each.got), "allowed": each.allowed} for each in problem.errors
        ],
        **problem.extra,
    }
    return JSONResponse(body, problem.status_code, headers, media_type=MEDIA_TYPE)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI description of the error responses of a route."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


def install(app: FastAPI) -> None:
    """Make every error response of `app` a problem, and add the schemas to its OpenAPI description."""

    def add_schema(description: dict[str, Any]) -> None:
        schemas = description.setdefault("components", {}).setdefault("schemas", {})
        schemas["Problem"] = ProblemBody.model_json_schema()
        schemas["VideosError"] = VideosError.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schemas["VideosError"].pop("$defs")

    extend_description(app, add_schema)
    app.add_exception_handler(Problem, _from_problem)
    app.add_exception_handler(HTTPException, _from_http)
    app.add_exception_handler(RequestValidationError, _from_validation)
    app.add_exception_handler(UnreadableRecord, _from_unreadable)
    for kind in (StoreUnavailable, QueueUnavailable, StorageUnavailable, ProbeUnavailableError):
        app.add_exception_handler(kind, _from_outage)


def unavailable(error: Exception) -> Problem:
    """The problem for an outage of Redis, the queue, storage or the probe."""
    if isinstance(error, StorageFull):
        return Problem(507, "storage_full", "The storage has no space left for the files of this job.")
    if isinstance(error, StorageUnavailable):
        return Problem(503, "storage_unavailable", "The file storage does not respond. Try again.", headers=RETRY_AFTER)
    if isinstance(error, ProbeUnavailableError):
        return Problem(503, "probe_unavailable", "Uploads cannot be examined now. Try again.", headers=RETRY_AFTER)
    if isinstance(error, StoreTimeout):
        return Problem(503, "store_timeout", "Redis did not respond in time. Try again.", headers=RETRY_AFTER)
    return Problem(503, "queue_unavailable", "The job queue does not respond. Try again.", headers=RETRY_AFTER)


async def _from_problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem)
    return problem_response(request, error)


async def _from_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = error.status_code
    sentences = {
        404: f"{request.url.path} does not exist.",
        405: f"{request.url.path} does not support {request.method}.",
    }
    headers = dict(error.headers or {})
    if status == 405:  # FastAPI lists only the methods of the first route with this path
        headers["Allow"] = ", ".join(_methods(request))
    detail = sentences.get(status, error.detail)
    return problem_response(request, Problem(status, _CODES.get(status, "http_error"), detail, headers=headers))


def _methods(request: Request) -> list[str]:
    """The methods that the path of the request supports."""
    scopes = {method: {**request.scope, "method": method} for method in ("GET", "HEAD", "POST", "DELETE")}
    routes = request.app.routes
    return [name for name, scope in scopes.items() if any(route.matches(scope)[0] is Match.FULL for route in routes)]


async def _from_validation(request: Request, error: Exception) -> JSONResponse:
    """An invalid query or header parameter, which FastAPI has checked."""
    assert isinstance(error, RequestValidationError)
    errors = [FieldError(str(item["loc"][-1]), item.get("input"), item["msg"]) for item in error.errors()]
    names = ", ".join(dict.fromkeys(each.field for each in errors))
    return problem_response(request, Problem(422, "invalid_parameter", f"Invalid value: {names}.", errors))


async def _from_unreadable(request: Request, error: Exception) -> JSONResponse:
    detail = "This version of Duet cannot read the record of this job. Other jobs are not affected."
    return problem_response(request, Problem(500, "unreadable_record", detail))


async def _from_outage(request: Request, error: Exception) -> JSONResponse:
    log.error("outage", kind=type(error).__name__, error=str(error))
    return problem_response(request, unavailable(error))


def _echo(value: Any) -> Any:
    """The value as JSON, shortened: as it is if it is a scalar, otherwise as text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) < 2**53:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    text = _sendable(text)
    return text if len(text) <= _LONGEST_ECHO else text[: _LONGEST_ECHO - 1] + "…"


def _sendable(text: str) -> str:
    """The text without lone surrogates, which JSON can contain and UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode()
