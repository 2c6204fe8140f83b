"""How much one caller may ask, and how much may wait: refused before anything is taken in."""

from __future__ import annotations

from service.api.auth import Caller
from service.api.problems import Problem
from service.api.services import Services


def check_room(services: Services, caller: Caller) -> None:
    """Raise Problem 429 if the caller's share of the queue is used up, 503 if the whole queue is full.

    Requests that are judged at the same moment do not see each other: as many as there are of them, the limits may be
    overstepped by. Raises StoreUnavailable.
    """
    settings = services.settings
    if caller.name is not None and services.store.count_queued(caller.name) >= settings.max_queued_per_key:
        detail = f"{settings.max_queued_per_key} jobs of this key wait already."
        raise Problem(429, "too_many_queued", detail, headers={"Retry-After": "10"})
    if services.store.count_queued() >= settings.max_queued:
        raise Problem(503, "queue_full", "Too many jobs wait already; try again.", headers={"Retry-After": "10"})
