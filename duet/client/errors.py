"""Exceptions of the client."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any


class DuetError(Exception):
    """Base class of errors of a server or a job. Wrong arguments raise ValueError, unusable files OSError."""


class ServerUnreachable(DuetError):
    """The server did not respond, even after retries."""


@dataclass(frozen=True)
class FieldProblem:
    """An invalid field of a request.

    `got` is the value that was sent, `allowed` a description of the allowed ones.
    """

    field: str
    got: Any
    allowed: str

    def __str__(self) -> str:
        got = "" if self.got is None else f"got {self.got!r}, "
        return f"{self.field or 'the request'}: {got}allowed: {self.allowed}"


class Refused(DuetError):
    """The server refused the request with a problem document (RFC 9457).

    `code` is for programs, `detail` for people, `errors` lists the invalid fields, and `request_id` identifies the
    request in the server's log.
    """

    def __init__(self, status: int, code: str, detail: str, errors: tuple[FieldProblem, ...], request_id: str) -> None:
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = errors
        self.request_id = request_id
        further = (each for each in errors if each.allowed.rstrip(".") not in detail)
        lines = [f"{detail} ({status} {code})", *map(str, further)]
        super().__init__("\n  ".join(lines))

    @classmethod
    def read(cls, status: int, headers: Mapping[str, str], body: bytes) -> Refused:
        """From a response. If it is not a problem document, such as a proxy's own page, its status is described."""
        problem = _members(body)
        phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "unknown status"
        wrong = problem.get("errors") or ()
        return cls(
            status,
            str(problem.get("code") or f"http_{status}"),
            str(problem.get("detail") or f"The server responded: {phrase}."),
            tuple(
                FieldProblem(str(each.get("field", "")), each.get("got"), str(each.get("allowed", "")))
                for each in wrong
                if isinstance(each, dict)
            ),
            str(problem.get("request_id") or headers.get("x-request-id", "")),
        )


class JobFailed(DuetError):
    """The job failed. `code` and `message` come from the job; if `retryable`, it may succeed when tried again."""

    def __init__(self, job_id: str, code: str, message: str, retryable: bool) -> None:
        self.job_id = job_id
        self.code = code
        self.message = message
        self.retryable = retryable
        super().__init__(f"{job_id} failed: {message} ({code})")


class JobCanceled(DuetError):
    """The job was canceled."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        super().__init__(f"{job_id} was canceled")


class JobGone(DuetError):
    """The job was deleted while `wait` was waiting for it."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        super().__init__(f"{job_id} was deleted")


class StillRunning(DuetError, TimeoutError):
    """The timeout of `wait` has passed. The job continues."""

    def __init__(self, job_id: str, seconds: float) -> None:
        self.job_id = job_id
        super().__init__(f"{job_id} has not ended within {seconds:g} s; it continues")


def _members(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
