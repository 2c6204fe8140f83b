"""Metrics of the process that sends webhooks."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector

from service.metrics.background import background_failures
from service.webhooks.sender import Answer


class WebhookMetrics:
    """Counts delivery attempts and their outcomes."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._sent = Counter(
            "duet_webhooks_sent",
            "Delivery attempts: received, refused (the receiver answered with another status) or unreachable.",
            ("outcome",),
            registry=self.registry,
        )
        for outcome in ("received", "refused", "unreachable"):
            self._sent.labels(outcome)  # Prometheus misses the first increment of a series that it has not seen at 0
        self._given_up = Counter(
            "duet_webhooks_given_up",
            "Webhooks that were not received and are not resent.",
            registry=self.registry,
        )
        self.background_failed = background_failures(self.registry, "outbox")
        self._seconds = Histogram("duet_webhook_seconds", "Duration of each delivery attempt.", registry=self.registry)

    def sent(self, answer: Answer, seconds: float, given_up: bool) -> None:
        failed = "refused" if answer.status is not None else "unreachable"
        outcome = "received" if answer.error is None else failed
        self._sent.labels(outcome).inc()
        self._seconds.observe(seconds)
        if given_up:
            self._given_up.inc()
