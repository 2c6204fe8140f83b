"""`GET /metrics`: metrics for Prometheus. It requires a key like other routes; the port DUET_METRICS_PORT does not."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from service.api.auth import CallerHere
from service.api.services import ServicesHere

router = APIRouter(tags=["health"])

_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "all metrics, in the text format of Prometheus, or as OpenMetrics if `Accept` names it",
        "content": {
            "text/plain": {
                "schema": {"type": "string"},
                "examples": {
                    "queue": {"summary": "queued jobs", "value": 'duet_queue_length{priority="normal"} 3.0\n'}
                },
            },
            "application/openmetrics-text": {"schema": {"type": "string"}},
        },
    }
}


@router.get("/metrics", response_class=Response, responses=_ANSWER)
@router.head("/metrics", include_in_schema=False)
def metrics(request: Request, services: ServicesHere, caller: CallerHere) -> Response:
    """Metrics of requests, uploads, jobs and the queue, for all users together."""
    body, content_type = services.metrics.exposition(request.headers.get("accept", ""))
    return Response(body, headers={"Content-Type": content_type})
