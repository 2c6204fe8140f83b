"""Errors of `/v1/videos`, in the shape and with the statuses that OpenAI's clients turn into exceptions.

A job is called a video there. `service.api.videos.fields` has the names of its fields.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.types import Scope

_TEXTS = (
    (re.compile(r"\bjob_(?=[0-9A-Z]{26}\b)"), "video_"),
    (re.compile(r"\b(no|the|The) job\b(?! queue)"), r"\1 video"),
)
"""Replacements in messages."""

_STATUSES = {410: 404, 415: 400, 422: 400}
"""Statuses in this dialect, which has no exceptions for some of those of other routes."""

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class VideosErrorDetail(BaseModel):
    """What is wrong."""

    message: str = Field(description="explanation for people, with the allowed values of an invalid field")
    type: str = Field(
        description="invalid_request_error, authentication_error, permission_error, rate_limit_error or server_error"
    )
    param: str | None = Field(description="the invalid field; null if there is none")
    code: str = Field(description="machine-readable code of the error")


class VideosError(BaseModel):
    """An error response of `/v1/videos`."""

    model_config = ConfigDict(title="VideosError")

    error: VideosErrorDetail = Field(description="what is wrong")


def speaks_openai(scope: Scope) -> bool:
    """Whether the request is for a route of this dialect."""
    path: str = scope["path"].removeprefix(scope.get("root_path", "")).removeprefix("/v1")
    return path == "/videos" or path.startswith("/videos/")


def openai_error(
    status: int, code: str, detail: str, fields: Sequence[tuple[str, str]] = ()
) -> tuple[int, dict[str, Any]]:
    """Status and body of an error. `fields`: each invalid field and its allowed values in words."""
    status = _STATUSES.get(status, status)
    message = detail
    for field, allowed in fields:
        if field and allowed.rstrip(".") not in detail:
            message += f" {field}: {allowed}."
    for pattern, replacement in _TEXTS:
        message = pattern.sub(replacement, message)
    param = fields[0][0] if fields else None
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    error = {"message": message, "type": kind, "param": param or None, "code": code}
    return status, {"error": error}
