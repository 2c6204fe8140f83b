"""What can go wrong between a client and a server, as exceptions that read well."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any


class DuetError(Exception):
    """Anything that the client raises about a server or a job; what it was called with raises ValueError or OSError."""


class ServerUnreachable(DuetError):
    """No server answered at the address, also not when asked again."""


@dataclass(frozen=True)
class FieldProblem:
    """One wrong field: what came, and what is allowed, in words."""

    field: str
    got: Any
    allowed: str

    def __str__(self) -> str:
        came = "" if self.got is None else f"{self.got!r} came, "
        return f"{self.field or 'the request'}: {came}allowed: {self.allowed}"


class Refused(DuetError):
    """The server answered with a problem (RFC 9457). `code` is for programs, `detail` for people, `errors` tell what is
    wrong field by field, and `request_id` finds the request in the server's log."""

    def __init__(self, status: int, code: str, detail: str, errors: tuple[FieldProblem, ...], request_id: str) -> None:
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = errors
        self.request_id = request_id
        news = (each for each in errors if each.allowed.rstrip(".") not in detail)
        lines = [f"{detail} ({status} {code})", *map(str, news)]
        super().__init__("\n  ".join(lines))

    @classmethod
    def read(cls, status: int, headers: Mapping[str, str], body: bytes) -> Refused:
        """From an answer. One that is no problem document, as a proxy's own, is told by its status."""
        said = _members(body)
        phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "unknown status"
        wrong = said.get("errors") or ()
        return cls(
            status,
            str(said.get("code") or f"http_{status}"),
            str(said.get("detail") or f"The server answered: {phrase}."),
            tuple(
                FieldProblem(str(each.get("field", "")), each.get("got"), str(each.get("allowed", "")))
                for each in wrong
                if isinstance(each, dict)
            ),
            str(said.get("request_id") or headers.get("x-request-id", "")),
        )


class JobFailed(DuetError):
    """The job ended without a result. `code` and `message` are the job's own words; `retryable`: it may go better."""

    def __init__(self, job_id: str, code: str, message: str, retryable: bool) -> None:
        self.job_id = job_id
        self.code = code
        self.message = message
        self.retryable = retryable
        super().__init__(f"{job_id} failed: {message} ({code})")


class JobCanceled(DuetError):
    """Somebody canceled the job."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        super().__init__(f"{job_id} was canceled")


class JobGone(DuetError):
    """The job was deleted while it was waited for."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        super().__init__(f"{job_id} was deleted")


class StillRunning(DuetError, TimeoutError):
    """The time given to `wait` is over; the job goes on."""

    def __init__(self, job_id: str, seconds: float) -> None:
        self.job_id = job_id
        super().__init__(f"{job_id} has not ended within {seconds:g} s; it goes on")


def _members(body: bytes) -> dict[str, Any]:
    try:
        said = json.loads(body)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
