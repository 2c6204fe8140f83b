"""Metrics that API and worker share: failures of background threads, and the breaker of storage."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge


def background_failures(registry: CollectorRegistry, *tasks: str) -> Callable[[str], None]:
    """Register `duet_background_failures_total` with one series for each of `tasks`; the result counts one failure."""
    counter = Counter(
        "duet_background_failures", "Failed rounds of a background task, by task.", ("task",), registry=registry
    )
    for task in tasks:  # Prometheus misses the first increment of a series that it has not seen at 0
        counter.labels(task)
    return lambda task: counter.labels(task).inc()


def storage_breaker(registry: CollectorRegistry) -> Gauge:
    """Register `duet_storage_breaker_open`: 1 while calls to storage fail at once; summed over processes."""
    gauge = Gauge(
        "duet_storage_breaker_open",
        "Processes whose storage breaker is open.",
        registry=registry,
        multiprocess_mode="livesum",
    )
    gauge.set(0)  # a process with the same number may have left it at 1
    return gauge
