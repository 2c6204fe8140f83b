"""Limits on queued jobs, per caller and in all, checked before the body of a request is read."""

from __future__ import annotations

from service.api.auth import Caller
from service.api.problems import Problem
from service.api.services import Services


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
