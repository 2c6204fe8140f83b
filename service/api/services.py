"""What the routes work with: one of each, made when the API starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from anyio import CapacityLimiter
from fastapi import Depends, Request

from service.api.catalogue import Catalogue
from service.jobs.events import Events
from service.jobs.idempotency import IdempotencyKeys
from service.jobs.queue import JobQueue
from service.jobs.rate_limit import Keyring
from service.jobs.retention import Retention
from service.jobs.store import JobStore
from service.metrics.api import ApiMetrics
from service.sandbox.probe import Prober
from service.settings import Settings
from service.storage import Storage
from service.tracing import Tracing


@dataclass(frozen=True)
class Services:
    """Settings, job records, queue, files, models, metrics, traces and the judge of uploads, of one API process."""

    settings: Settings
    store: JobStore
    queue: JobQueue
    storage: Storage
    catalogue: Catalogue
    prober: Prober
    keyring: Keyring
    idempotency: IdempotencyKeys
    retention: Retention
    events: Events
    metrics: ApiMetrics
    tracing: Tracing
    judges: CapacityLimiter
    """Uploads looked at side by side: more than the processor can bear would run into the probe's time limit."""


async def _services(request: Request) -> Services:
    services = request.app.state.services
    assert isinstance(services, Services)
    return services


ServicesHere = Annotated[Services, Depends(_services)]
"""A route that declares a parameter of this type gets the services."""


def prefix(request: Request) -> str:
    """What stands before every path in answers: `/v1` where the client came that way, and a proxy's own prefix."""
    root = request.scope.get("root_path", "")
    path = request.scope["path"].removeprefix(root)
    return root + ("/v1" if path.startswith("/v1/") else "")
