"""The counter of failures in background threads, the same in every process."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter


def background_failures(registry: CollectorRegistry, *tasks: str) -> Callable[[str], None]:
    """Register `duet_background_failures_total` with one series for each of `tasks`; the result counts one failure."""
    counter = Counter(
        "duet_background_failures", "Failed rounds of a background task, by task.", ("task",), registry=registry
    )
    for task in tasks:  # a series that begins at 1 looks to Prometheus as if nothing had happened
        counter.labels(task)
    return lambda task: counter.labels(task).inc()
