"""What the process that sends webhooks counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector

from service.webhooks.sender import Answer


class WebhookMetrics:
    """What became of webhooks."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._sent = Counter(
            "duet_webhooks_sent",
            "Webhooks sent, each try: received, refused (the receiver answered otherwise) or unreachable.",
            ("outcome",),
            registry=self.registry,
        )
        for outcome in ("received", "refused", "unreachable"):
            self._sent.labels(outcome)  # what begins at 1 looks to Prometheus as if nothing had happened
        self._given_up = Counter(
            "duet_webhooks_given_up",
            "Webhooks not received and not sent again.",
            registry=self.registry,
        )
        self._seconds = Histogram("duet_webhook_seconds", "What each try took.", registry=self.registry)

    def sent(self, answer: Answer, seconds: float, given_up: bool) -> None:
        failed = "refused" if answer.status is not None else "unreachable"
        outcome = "received" if answer.error is None else failed
        self._sent.labels(outcome).inc()
        self._seconds.observe(seconds)
        if given_up:
            self._given_up.inc()
