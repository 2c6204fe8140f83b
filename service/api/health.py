"""`GET /healthz`: the process is up. `GET /readyz`: it can accept jobs, and there is a worker."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, Field

from service.api.problems import Problem, responses
from service.api.services import ServicesHere

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """The process is healthy."""

    status: str = Field(description="ok, or ready")


@router.get("/healthz")
@router.head("/healthz", include_in_schema=False)
async def healthz() -> Health:
    """The process responds. Says nothing about its dependencies."""
    return Health(status="ok")


@router.get("/readyz", responses=responses(503))
@router.head("/readyz", include_in_schema=False)
async def readyz(services: ServicesHere) -> Health:
    """Jobs can be accepted now. Otherwise 503, and `missing` names what is unavailable: redis, worker, storage."""
    missing = await services.readiness.missing()
    if missing:
        raise Problem(
            503, "not_ready", f"Missing: {', '.join(missing)}.", headers={"Retry-After": "2"}, missing=missing
        )
    return Health(status="ready")
