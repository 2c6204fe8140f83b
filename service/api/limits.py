"""Limits on queued jobs, per caller and in all, checked before the body of a request is read; and on event
streams and requests that wait."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from service.api.auth import Caller
from service.api.problems import Problem
from service.api.services import Services
from service.jobs.concurrency import TooManyOpen


def check_room(services: Services, caller: Caller) -> None:
    """Raise Problem 429 if the caller has too many queued jobs, 503 if the queue is full.

    Simultaneous requests do not see each other's jobs, so they can exceed the limits by their number. Raises
    StoreUnavailable.
    """
    settings = services.settings
    if caller.name is not None and services.store.count_queued(caller.name) >= settings.max_queued_per_key:
        detail = f"This key already has {settings.max_queued_per_key} queued jobs."
        raise Problem(429, "too_many_queued", detail, headers={"Retry-After": "10"})
    if services.store.count_queued() >= settings.max_queued:
        raise Problem(503, "queue_full", "The queue is full. Try again later.", headers={"Retry-After": "10"})


@asynccontextmanager
async def stream_slot(services: Services, caller: Caller) -> AsyncIterator[None]:
    """Count one more event stream, or request that waits for a job, of the caller as long as the context is open.
    Callers without a key have no limit.

    Raises Problem 429, StoreUnavailable.
    """
    async with AsyncExitStack() as stack:
        if caller.name is not None:
            most = services.settings.max_event_streams_per_key
            try:
                await stack.enter_async_context(services.concurrency.slot("streams", caller.name, most))
            except TooManyOpen as error:
                detail = f"This key has {most} event streams and waiting requests open. End one, or poll the job."
                raise Problem(429, "too_many_streams_of_key", detail, headers={"Retry-After": "5"}) from error
        yield
