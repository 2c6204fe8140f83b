"""The OpenAPI description as a whole: introduction, tags and examples. Served at `/openapi.json`, shown at `/docs`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

from service.api import examples

ABOUT = """\
Duet generates video with sound, sound for a video, and video for a sound, and makes parts of a video anew.

A request for a clip returns **202** and a job at once. The job shows its progress and, once it is completed, the URLs
of its files. Poll it (`GET /jobs/{id}`), follow it (`GET /jobs/{id}/events`), have its end reported to you (parameter
`webhook`), or wait for it in the request itself (`Prefer: wait=30`).

- Invalid requests are refused before anything is queued, as `application/problem+json` (RFC 9457): `code` is for
  programs, `detail` for people, and `errors` lists each invalid field with its value and the allowed values.
- A request with an `Idempotency-Key` can be repeated without creating a second job.
- Every response has an `X-Request-ID`: the client's or a new one.
- The same routes exist under `/v1`.
"""

TAGS: list[dict[str, Any]] = [
    {"name": "make", "description": "Request a clip. The response is a job."},
    {"name": "jobs", "description": "Follow, cancel, retry and delete jobs, and fetch their files."},
    {"name": "verify", "description": "Read what a file says of its making."},
    {
        "name": "videos",
        "description": "The dialect of OpenAI's video clients, at /v1/videos, over the same jobs and with its errors.",
    },
    {"name": "models", "description": "The models of this service and their capabilities."},
    {
        "name": "study",
        "description": "A rater's page of a blind study. The token grants access; no key is needed.",
    },
    {"name": "health", "description": "For monitoring. Health checks need no key."},
]

_EXAMPLES = {
    "JobView": examples.JOB,
    "JobList": examples.JOBS,
    "ModelList": examples.MODELS,
    "ReloadView": examples.RELOAD,
    "Health": examples.HEALTH,
    "VerifyReport": examples.REPORT,
    "Video": examples.VIDEO,
    "VideoList": examples.VIDEOS,
    "VideoDeleted": examples.VIDEO_DELETED,
    "VideosError": examples.VIDEOS_ERROR,
    "Problem": examples.PROBLEM,
    "StudySession": examples.STUDY_SESSION,
    "StudyVote": examples.STUDY_VOTE,
}
"""By schema. They are added here because FastAPI removes nulls from the examples of models."""

_FOREIGN = ("HTTPValidationError", "ValidationError")


def extend_description(app: FastAPI, change: Callable[[dict[str, Any]], None]) -> None:
    """Apply `change` to the OpenAPI description of `app`. It may be applied to the same description several times."""
    describe = app.openapi

    def extended() -> dict[str, Any]:
        description = describe()
        change(description)
        return description

    setattr(app, "openapi", extended)  # noqa: B010 - documented by FastAPI; mypy forbids the assignment


def complete(app: FastAPI) -> None:
    """Add introduction, tags and examples, and remove FastAPI's own error responses, which are never sent."""
    app.description, app.openapi_tags = ABOUT, TAGS

    def complete_schemas(description: dict[str, Any]) -> None:
        for operations in description["paths"].values():
            for operation in operations.values():
                content = operation["responses"].get("422", {}).get("content", {})
                if any(_FOREIGN[0] in str(each.get("schema")) for each in content.values()):
                    del operation["responses"]["422"]
        schemas = description["components"]["schemas"]
        for name in _FOREIGN:
            schemas.pop(name, None)
        for name, example in _EXAMPLES.items():
            schemas[name]["examples"] = [example]

    extend_description(app, complete_schemas)
