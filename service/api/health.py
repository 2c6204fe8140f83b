"""`GET /healthz`: the process is up. `GET /readyz`: it can take jobs, and somebody is there to do them."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, Field

from service.api.problems import Problem, responses
from service.api.services import ServicesHere
from service.jobs.store import StoreUnavailable
from service.log import log
from service.storage import StorageUnavailable

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """All is well."""

    status: str = Field(description="ok, or ready")


@router.get("/healthz")
@router.head("/healthz", include_in_schema=False)
def healthz() -> Health:
    """The process answers. Says nothing about what it depends on."""
    return Health(status="ok")


@router.get("/readyz", responses=responses(503))
@router.head("/readyz", include_in_schema=False)
def readyz(services: ServicesHere) -> Health:
    """Jobs can be taken now. Otherwise 503, and `missing` names what is not there: redis, worker, storage."""
    missing = []
    try:
        services.store.ping()
        if not services.store.workers():
            missing.append("worker")
    except StoreUnavailable as error:
        log.warning("not ready", missing="redis", error=str(error))
        missing.append("redis")
    try:
        services.storage.check()
    except StorageUnavailable as error:
        log.warning("not ready", missing="storage", error=str(error))
        missing.append("storage")
    if missing:
        raise Problem(
            503, "not_ready", f"Missing: {', '.join(missing)}.", headers={"Retry-After": "2"}, missing=missing
        )
    return Health(status="ready")
