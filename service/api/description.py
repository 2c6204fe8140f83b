"""What the API says of itself as a whole, at `/openapi.json` and thereby at `/docs`."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from service.api import examples

ABOUT = """\
Duet makes sounding video from nothing, a sound for a video, and a video for a sound.

A request for a clip is answered at once with **202** and a job; the job says how far it is and, when it is completed,
where its files are. Ask for it again (`GET /jobs/{id}`), follow it (`GET /jobs/{id}/events`), have its end reported to
you (the parameter `webhook`), or wait for the answer itself (`Prefer: wait=30`).

- What is wrong with a request is said before anything is queued, as `application/problem+json` (RFC 9457): `code` is
  for programs, `detail` for people, and `errors` names each wrong field, what came and what is allowed.
- A request with an `Idempotency-Key` can be sent again without making a second job.
- Every answer has an `X-Request-ID`, the client's own or a new one.
- The same routes answer under `/v1`.
"""

TAGS: list[dict[str, Any]] = [
    {"name": "make", "description": "Ask for a clip. The answer is a job."},
    {"name": "jobs", "description": "What became of it: follow, stop, repeat, erase, and fetch its files."},
    {"name": "models", "description": "What is served here, and what it can do."},
    {"name": "health", "description": "For whatever watches the service. No key is asked for."},
]

_EXAMPLES = {
    "JobView": examples.JOB,
    "JobList": examples.JOBS,
    "ModelList": examples.MODELS,
    "Health": examples.HEALTH,
    "Problem": examples.PROBLEM,
}
"""By the names of their schemas. Put in here and not where the models are, because FastAPI takes nulls out of those."""

_FOREIGN = ("HTTPValidationError", "ValidationError")


def complete(app: FastAPI) -> None:
    """Have `app` describe what it is, and leave out what it never answers: FastAPI's own shape of errors."""
    app.description, app.openapi_tags = ABOUT, TAGS
    describe = app.openapi

    def describe_completely() -> dict[str, Any]:
        description = describe()
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
        return description

    setattr(app, "openapi", describe_completely)  # noqa: B010 - FastAPI's way to extend it; mypy forbids assignment
