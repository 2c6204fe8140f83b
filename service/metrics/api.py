"""Metrics of an API process. Labels have few values: routes by template, never paths; no ids, no keys."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client import generate_latest as as_text
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.openmetrics.exposition import generate_latest as as_openmetrics

from service.metrics.background import background_failures, storage_breaker
from service.metrics.queue import QueueCollector
from service.metrics.sharing import shared_folder
from service.settings import Settings

NO_ROUTE = "none"
"""The route label of a request that matches no route."""

OPENMETRICS = "application/openmetrics-text"
_METHODS = ("GET", "HEAD", "POST", "DELETE")
_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BYTES = tuple(2**20 * size for size in (0.25, 1, 4, 16, 64, 256, 1024))


class ApiMetrics:
    """One per application, with its own registry. `scraped` is the exported registry: it includes the figures from
    Redis, and those of the other processes if several share a socket."""

    def __init__(self, settings: Settings) -> None:
        self.shared = shared_folder()
        own = CollectorRegistry()
        self._requests = Counter("duet_http_requests", "Responses sent.", ("route", "method", "status"), registry=own)
        self._seconds = Histogram(
            "duet_http_request_seconds",
            "Time from a request to the beginning of its response.",
            ("route", "method"),
            registry=own,
            buckets=_SECONDS,
        )
        self._accepted = Counter("duet_jobs_accepted", "Jobs accepted.", ("kind", "priority"), registry=own)
        self._uploads = Counter("duet_uploads", "Uploads that became part of a job.", ("kind",), registry=own)
        self._upload_bytes = Histogram(
            "duet_upload_bytes", "Sizes of uploads that became part of a job.", ("kind",), registry=own, buckets=_BYTES
        )
        self._refused = Counter(
            "duet_uploads_refused", "Uploads refused, by the code of the problem.", ("kind", "reason"), registry=own
        )
        self.event_streams = Gauge(
            "duet_event_streams", "Clients that follow a job.", registry=own, multiprocess_mode="livesum"
        )
        self.event_streams.set(0)  # the previous process with this number may have left its streams counted
        self.background_failed = background_failures(own, "sweeper", "concurrency", "events", "positions")
        self.storage_breaker = storage_breaker(own)
        self._queue = QueueCollector(settings)
        if self.shared:
            self.scraped = CollectorRegistry()
            MultiProcessCollector(self.scraped, self.shared)
        else:
            self.scraped = own
            ProcessCollector(registry=own)
        self.scraped.register(self._queue)

    def answered(self, route: str | None, method: str, status: int, seconds: float) -> None:
        """A request was answered with `status` after `seconds`."""
        route, method = route or NO_ROUTE, method if method in _METHODS else "other"
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route, method).observe(seconds)

    def accepted(self, kind: str, priority: str) -> None:
        self._accepted.labels(kind, priority).inc()

    def uploaded(self, kind: str, size: int) -> None:
        """An upload of `size` bytes belongs to a job now."""
        self._uploads.labels(kind).inc()
        self._upload_bytes.labels(kind).observe(size)

    def refused(self, kind: str, reason: str) -> None:
        self._refused.labels(kind, reason).inc()

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """All metrics as text, OpenMetrics if `accept` names it, and the content type."""
        if OPENMETRICS in accept:
            return as_openmetrics(self.scraped), f"{OPENMETRICS}; version=1.0.0; charset=utf-8"
        return as_text(self.scraped), CONTENT_TYPE_PLAIN_0_0_4

    def close(self) -> None:
        self._queue.close()
