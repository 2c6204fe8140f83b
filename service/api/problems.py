"""Errors as `application/problem+json` (RFC 9457): whatever goes wrong, the client reads the same shape."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match

from service.jobs.connection import StoreTimeout, StoreUnavailable
from service.jobs.queue import QueueUnavailable
from service.jobs.record import UnreadableRecord
from service.log import log
from service.sandbox.probe import ProbeUnavailableError
from service.storage import StorageFull, StorageUnavailable

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = {"Retry-After": "5"}
"""For what a client may simply try again: seconds."""

_LONGEST_ECHO = 200
"""Characters of what came that are sent back."""

_CODES = {404: "not_found", 405: "method_not_allowed"}


@dataclass(frozen=True)
class FieldError:
    """What is wrong with one field: what came, and what is allowed, in words."""

    field: str
    got: Any
    allowed: str


class Problem(HTTPException):
    """An answer that is an error. `extra` become further members of the body."""

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
    """The shape of a problem, for the API's description."""

    model_config = ConfigDict(title="Problem", extra="allow")

    type: str = Field(description="always about:blank: `code` tells problems apart")
    title: str = Field(description="the status in words")
    status: int = Field(description="the status of the answer")
    detail: str = Field(description="what happened, for people")
    instance: str = Field(description="path of the request")
    code: str = Field(description="what happened, for programs")
    request_id: str = Field(description="the same as in the header X-Request-ID")
    errors: list[dict[str, Any]] = Field(description="one for each wrong field: `field`, `got`, `allowed`")


def problem_response(request: Request, problem: Problem) -> JSONResponse:
    """The response that says it."""
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
    return JSONResponse(body, problem.status_code, dict(problem.headers or {}), media_type=MEDIA_TYPE)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems that a route answers with, for the API's description."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


def install(app: FastAPI) -> None:
    """Make `app` answer every error as a problem, and describe what a problem is."""
    describe = app.openapi

    def describe_with_problem() -> dict[str, Any]:
        description = describe()
        description.setdefault("components", {}).setdefault("schemas", {})["Problem"] = ProblemBody.model_json_schema()
        return description

    setattr(app, "openapi", describe_with_problem)  # noqa: B010 - FastAPI's way to extend it; mypy forbids assignment
    app.add_exception_handler(Problem, _from_problem)
    app.add_exception_handler(HTTPException, _from_http)
    app.add_exception_handler(RequestValidationError, _from_validation)
    app.add_exception_handler(UnreadableRecord, _from_unreadable)
    for kind in (StoreUnavailable, QueueUnavailable, StorageUnavailable, ProbeUnavailableError):
        app.add_exception_handler(kind, _from_outage)


def unavailable(error: Exception) -> Problem:
    """The problem behind an outage of what the service stands on."""
    if isinstance(error, StorageFull):
        return Problem(507, "storage_full", "No space is left to keep the files of this job.")
    if isinstance(error, StorageUnavailable):
        return Problem(503, "storage_unavailable", "The file store does not answer; try again.", headers=RETRY_AFTER)
    if isinstance(error, ProbeUnavailableError):
        return Problem(503, "probe_unavailable", "Uploads cannot be looked at now; try again.", headers=RETRY_AFTER)
    if isinstance(error, StoreTimeout):
        return Problem(503, "store_timeout", "Redis did not answer in time; try again.", headers=RETRY_AFTER)
    return Problem(503, "queue_unavailable", "The job queue does not answer; try again.", headers=RETRY_AFTER)


async def _from_problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem)
    return problem_response(request, error)


async def _from_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = error.status_code
    sentences = {
        404: f"There is nothing at {request.url.path}.",
        405: f"{request.url.path} does not take {request.method}.",
    }
    headers = dict(error.headers or {})
    if status == 405:  # one path, several routes: FastAPI names the methods of the first only
        headers["Allow"] = ", ".join(_methods(request))
    detail = sentences.get(status, error.detail)
    return problem_response(request, Problem(status, _CODES.get(status, "http_error"), detail, headers=headers))


def _methods(request: Request) -> list[str]:
    """What can be done with the path of the request."""
    scopes = {method: {**request.scope, "method": method} for method in ("GET", "HEAD", "POST", "DELETE")}
    routes = request.app.routes
    return [name for name, scope in scopes.items() if any(route.matches(scope)[0] is Match.FULL for route in routes)]


async def _from_validation(request: Request, error: Exception) -> JSONResponse:
    """A query or header parameter that FastAPI checks."""
    assert isinstance(error, RequestValidationError)
    errors = [FieldError(str(item["loc"][-1]), item.get("input"), item["msg"]) for item in error.errors()]
    names = ", ".join(dict.fromkeys(each.field for each in errors))
    return problem_response(request, Problem(422, "invalid_parameter", f"Not as allowed: {names}.", errors))


async def _from_unreadable(request: Request, error: Exception) -> JSONResponse:
    detail = "The record of this job cannot be read by this version of Duet; the other jobs are not affected."
    return problem_response(request, Problem(500, "unreadable_record", detail))


async def _from_outage(request: Request, error: Exception) -> JSONResponse:
    log.error("outage", kind=type(error).__name__, error=str(error))
    return problem_response(request, unavailable(error))


def _echo(value: Any) -> Any:
    """What came, fit to be sent back: short, and JSON whatever it was."""
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
    """Without lone surrogates, which JSON can carry in and UTF-8 cannot carry out."""
    return text.encode("utf-8", "replace").decode()
