"""Builds the HTTP API application."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from model.checkpoint.manifest import ManifestError, find_models
from service.api import (
    auth,
    conditional,
    description,
    events,
    files,
    generate,
    health,
    jobs,
    metrics,
    models,
    problems,
    studio,
    study,
    verify,
)
from service.api.catalogue import Catalogue
from service.api.middleware import RequestContext
from service.api.proxies import ForwardedRequest
from service.api.readiness import Readiness
from service.api.services import Services, Threads
from service.api.uploads import sweep
from service.api.videos import routes as videos
from service.credentials.identity import trusted_certificates
from service.jobs.concurrency import ConcurrencyLimits
from service.jobs.connection import StoreUnavailable, connect
from service.jobs.events import Events
from service.jobs.idempotency import IdempotencyKeys
from service.jobs.model_generation import ModelGeneration
from service.jobs.queue import JobQueue, QueueUnavailable
from service.jobs.rate_limit import RateLimit
from service.jobs.retention import Retention, sweeper
from service.jobs.store import JobStore
from service.jobs.url_secret import UrlSecret
from service.log import configure_logging, log
from service.metrics.api import ApiMetrics
from service.metrics.exporter import Exporter
from service.sandbox.probe import Prober
from service.settings import Settings, load_settings
from service.storage import Breaker, GuardedStorage, open_storage
from service.study.store import StudyStore
from service.tracing import open_tracing
from service.version import version

_ROUTERS = (
    generate.router,
    conditional.router,
    jobs.router,
    events.router,
    files.router,
    models.router,
    verify.router,
    videos.router,
    health.router,
    metrics.router,
    study.router,
)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The API for `settings`. Without them, reads the environment and configures the log.

    Raises SystemExit with a message if a setting or a model's manifest is invalid.
    """
    if settings is None:
        settings = load_settings()
        configure_logging(settings)
    try:
        settings.check_published()
        catalogue = Catalogue(find_models(settings.models), settings.default_model, settings.models)
        trusted = trusted_certificates(settings)
    except (ManifestError, ValueError) as error:
        raise SystemExit(f"Duet cannot start.\n{error}") from error
    chosen = settings
    counted = ApiMetrics(chosen)
    tracing = open_tracing(chosen.otlp_endpoint, "duet-api")
    exporter = Exporter(chosen, counted.scraped, shared=counted.shared is not None)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        abandoned = sweep(chosen.temporary)
        if abandoned:
            log.info("abandoned uploads removed", count=abandoned)
        client = connect(chosen)
        store = JobStore(client, chosen.lease, chosen.ageing.total_seconds())
        queue = JobQueue(chosen)
        generation = ModelGeneration(client)
        try:
            store.ping()
            catalogue.follow(generation.current())  # the folders may have changed since they were read
            queue.connect()
        except (StoreUnavailable, QueueUnavailable) as error:
            log.warning("Redis is not available yet", error=str(error))
        _log_access(chosen)
        storage = GuardedStorage(open_storage(chosen), Breaker(changed=counted.storage_breaker.set))
        retention = Retention(client, store, storage, chosen.remember_erased)
        readiness = Readiness(store, storage)
        async with AsyncExitStack() as running:
            running.callback(readiness.close)
            prober = running.enter_context(Prober())
            running.enter_context(sweeper(retention, failed=counted.background_failed))
            app.state.services = Services(
                settings=chosen,
                store=store,
                queue=queue,
                storage=storage,
                catalogue=catalogue,
                generation=generation,
                prober=prober,
                rate_limit=RateLimit(client, chosen.max_requests_per_minute),
                url_secret=UrlSecret(client),
                idempotency=IdempotencyKeys(client, chosen.retention),
                retention=retention,
                events=await running.enter_async_context(Events(chosen, counted.background_failed)),
                metrics=counted,
                tracing=tracing,
                readiness=readiness,
                trusted=trusted,
                concurrency=running.enter_context(ConcurrencyLimits(client, failed=counted.background_failed)),
                studies=StudyStore(client),
                threads=Threads(os.cpu_count() or 1, keys=bool(chosen.key_hashes)),
            )
            exporter.start()
            yield
            exporter.stop()
        queue.close()
        client.close()
        counted.close()
        await run_in_threadpool(tracing.close)

    app = FastAPI(
        title="Duet",
        summary="Joint audio-video diffusion: video with sound, sound for a video, video for a sound.",
        version=version(),
        lifespan=lifespan,
        # FastAPI's own pages load scripts from a CDN; service.api.studio serves /docs itself.
        docs_url=None,
        redoc_url=None,
        separate_input_output_schemas=False,
        # A path with an extra slash is 404, not a redirect to the host that the Host header names.
        redirect_slashes=False,
    )
    app.state.catalogue = catalogue
    for router in _ROUTERS:
        app.include_router(router)
        app.include_router(router, prefix="/v1", include_in_schema=False)
    app.include_router(studio.router)
    app.include_router(study.pages)
    problems.install(app)
    description.complete(app)
    auth.describe(app, settings)
    app.add_middleware(RequestContext, metrics=counted, tracing=tracing, settings=settings)
    app.add_middleware(ForwardedRequest, settings=settings)
    return app


def _log_access(settings: Settings) -> None:
    names = sorted({name for name, _ in settings.key_hashes})
    if names:
        log.info("API keys are required", keys=names)
    else:
        log.info("no API keys are set: requests need no key", published_on=settings.published_on or settings.host)
        if "*" in settings.allowed_origins:
            log.warning("every web page that is opened on this machine can use the API", cors_origins="*")
