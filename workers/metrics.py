"""Metrics of a worker, in a registry of its own, for `service.metrics.exporter`.

Labels have few values: kinds, stages, error codes; never ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from model.networks.config import KINDS
from service.jobs.record import Job, Status
from service.metrics.background import background_failures, storage_breaker

STAGES = ("fetch", "decode", "base", "sr", "encode", "upload")
"""The stages of an attempt, in order."""

OUTCOMES = ("completed", "spooled", "failed", "retried", "canceled", "handed_back", "overtaken")
"""How an attempt can end."""

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
_WAITS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 4 * 3600)


class WorkerMetrics:
    """Counts what happens to jobs in one worker. Further collectors can be added to `registry`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        ProcessCollector(registry=own)
        self._claims = Counter("duet_worker_claims", "Attempts begun.", ("kind",), registry=own)
        self._attempts = Counter(
            "duet_worker_attempts",
            "Attempts ended: completed, spooled (waiting for storage), failed, retried, canceled, handed_back "
            "or overtaken.",
            ("kind", "outcome"),
            registry=own,
        )
        self._clips = Counter("duet_worker_clips", "Clips made.", ("kind",), registry=own)
        self._wait = Histogram(
            "duet_job_wait_seconds",
            "From a job's acceptance to its first claim.",
            ("priority",),
            registry=own,
            buckets=_WAITS,
        )
        self._run = Histogram(
            "duet_job_run_seconds", "Time from the last claim to completion.", ("kind",), registry=own, buckets=_SECONDS
        )
        self._stage = Histogram(
            "duet_job_stage_seconds",
            "Time that completed jobs spent in each stage.",
            ("stage",),
            registry=own,
            buckets=_SECONDS,
        )
        self._failures = Counter(
            "duet_worker_failures",
            "Attempts that failed, by error code and whether they count as a strike; three strikes fail a job.",
            ("reason", "strike"),
            registry=own,
        )
        self._lost = Counter(
            "duet_worker_leases_lost", "Jobs that another worker took while this worker had them.", registry=own
        )
        self._abandoned = Counter(
            "duet_reaper_abandoned",
            "Jobs that this worker's reaper took from dead workers, by their new status.",
            ("status",),
            registry=own,
        )
        self.background_failed = background_failures(
            own, "leases", "watchdog", "spool", "reaper", "heartbeat", "models"
        )
        self._reloads = Counter(
            "duet_model_reloads", "Times that the folders of models were read again.", ("outcome",), registry=own
        )
        for outcome in ("taken", "refused"):
            self._reloads.labels(outcome)
        self.storage_breaker = storage_breaker(own)
        self._in_hand = Gauge("duet_worker_jobs_in_hand", "Jobs claimed and not released.", registry=own)
        for kind in KINDS:  # Prometheus misses the first increment of a counter that it has not seen at 0
            for outcome in OUTCOMES:
                self._attempts.labels(kind, outcome)
            self._claims.labels(kind)
            self._clips.labels(kind)
        for reason in ("internal_error", "out_of_memory"):
            self._failures.labels(reason, "yes")
        for status in (Status.QUEUED, Status.FAILED):
            self._abandoned.labels(status)
        self._slots = Gauge("duet_worker_slots", "Maximum number of jobs claimed at a time.", registry=own)

    def slots(self, slots: int) -> None:
        self._slots.set(slots)

    def claimed(self, job: Job) -> None:
        self._claims.labels(job.kind).inc()
        self._in_hand.inc()
        if job.attempt == 1:
            self._wait.labels(job.priority).observe((datetime.now(UTC) - job.created_at).total_seconds())

    def ended(self, job: Job, outcome: str) -> None:
        """The attempt is over; follows `claimed`."""
        self._in_hand.dec()
        self._attempts.labels(job.kind, outcome).inc()

    def completed(self, job: Job, seconds: Mapping[str, float], run: float) -> None:
        """`seconds` by stage, `run` from claim to end."""
        self._clips.labels(job.kind).inc(job.params.num_outputs)
        self._run.labels(job.kind).observe(run)
        for stage in STAGES:
            if stage in seconds:
                self._stage.labels(stage).observe(seconds[stage])

    def failed(self, reason: str, strike: bool) -> None:
        self._failures.labels(reason, "yes" if strike else "no").inc()

    def reloaded(self, taken: bool) -> None:
        self._reloads.labels("taken" if taken else "refused").inc()

    def lease_lost(self) -> None:
        self._lost.inc()

    def abandoned(self, job: Job) -> None:
        """The reaper took `job` from a worker that is dead or hangs."""
        self._abandoned.labels(job.status).inc()
