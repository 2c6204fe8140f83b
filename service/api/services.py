"""Dependencies of the routes, created once when the API starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from anyio import CapacityLimiter
from fastapi import Depends, Request

from service.api.catalogue import Catalogue
from service.api.fair_share import FairLimiter
from service.api.readiness import Readiness
from service.jobs.concurrency import ConcurrencyLimits
from service.jobs.connection import StoreUnavailable
from service.jobs.events import Events
from service.jobs.idempotency import IdempotencyKeys
from service.jobs.model_generation import ModelGeneration
from service.jobs.queue import JobQueue
from service.jobs.rate_limit import RateLimit
from service.jobs.retention import Retention
from service.jobs.store import JobStore
from service.jobs.url_secret import UrlSecret
from service.metrics.api import ApiMetrics
from service.sandbox.probe import Prober
from service.settings import Settings
from service.storage import GuardedStorage
from service.study.store import StudyStore
from service.tracing import Tracing


class Threads:
    """Limits on threads, one for each kind of slow work, so that no kind takes the threads of another."""

    def __init__(self, cores: int, keys: bool) -> None:
        """`cores` of the processor; `keys`: whether callers are told apart by API keys."""
        probing = max(2, cores)
        self.probes = FairLimiter(probing, probing - 1 if keys else probing)
        """Probes of uploads: more than the processor has cores would run into the time limit of a probe."""
        self.probing = CapacityLimiter(probing)
        self.storage = CapacityLimiter(32)
        """Calls to storage: with S3 each may take seconds."""
        self.lookups = CapacityLimiter(8)
        """DNS lookups of webhook targets."""


@dataclass(frozen=True)
class Services:
    """The dependencies of one API process."""

    settings: Settings
    store: JobStore
    queue: JobQueue
    storage: GuardedStorage
    catalogue: Catalogue
    generation: ModelGeneration
    prober: Prober
    rate_limit: RateLimit
    url_secret: UrlSecret
    idempotency: IdempotencyKeys
    retention: Retention
    events: Events
    metrics: ApiMetrics
    tracing: Tracing
    readiness: Readiness
    threads: Threads
    concurrency: ConcurrencyLimits
    studies: StudyStore
    trusted: str
    """Certificates in PEM that `POST /verify` trusts."""

    def follow_models(self) -> None:
        """Take the models of the latest reload by any process. Without Redis they stay as they are."""
        try:
            generation = self.generation.current()
        except StoreUnavailable:
            return
        self.catalogue.follow(generation)

    @property
    def storage_threads(self) -> CapacityLimiter | None:
        """Limiter of threads that call storage. While its breaker is open calls return at once, and need not wait for
        those that hang: None, the limiter of all other threads."""
        return None if self.storage.breaker.open else self.threads.storage


async def _services(request: Request) -> Services:
    services = request.app.state.services
    assert isinstance(services, Services)
    return services


ServicesHere = Annotated[Services, Depends(_services)]
"""Parameter type of routes that use the services."""


def prefix(request: Request) -> str:
    """Prefix of every path in responses: the proxy's own prefix, then `/v1` if the request used it."""
    root = request.scope.get("root_path", "")
    path = request.scope["path"].removeprefix(root)
    return root + ("/v1" if path.startswith("/v1/") else "")
