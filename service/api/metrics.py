"""`GET /metrics`: what Prometheus reads, under the same rules of access as all else; the port of its own that
DUET_METRICS_PORT opens asks for no key."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from service.api.auth import CallerHere
from service.api.services import ServicesHere

router = APIRouter(tags=["health"])

_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "every metric, in the text format of Prometheus, or as OpenMetrics where that is asked for",
        "content": {
            "text/plain": {
                "schema": {"type": "string"},
                "examples": {
                    "queue": {"summary": "jobs that wait", "value": 'duet_queue_length{priority="normal"} 3.0\n'}
                },
            },
            "application/openmetrics-text": {"schema": {"type": "string"}},
        },
    }
}


@router.get("/metrics", response_class=Response, responses=_ANSWER)
@router.head("/metrics", include_in_schema=False)
def metrics(request: Request, services: ServicesHere, caller: CallerHere) -> Response:
    """What this service has counted: requests, uploads, jobs, the queue. Of all users together, of no single job."""
    body, content_type = services.metrics.exposition(request.headers.get("accept", ""))
    return Response(body, headers={"Content-Type": content_type})
