"""Metrics from Redis, read at each scrape, with a time limit in case Redis is unavailable."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import redis
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from redis.backoff import NoBackoff
from redis.retry import Retry

from service.jobs import queue_stats
from service.jobs.connection import StoreUnavailable
from service.jobs.queue_stats import QueueStats
from service.log import log
from service.settings import Settings

PATIENCE = 1.0
"""Time limit for the queries in seconds. Prometheus allows ten for a scrape, and a failing name lookup takes longer."""


class QueueCollector(Collector):
    """Figures of the service, the same from every API process. If Redis does not answer in time, only
    `duet_redis_up 0`."""

    def __init__(self, settings: Settings) -> None:
        self._redis = redis.Redis.from_url(
            settings.redis_url,
            socket_connect_timeout=PATIENCE / 2,
            socket_timeout=PATIENCE / 2,
            retry=Retry(NoBackoff(), 0),
            health_check_interval=0,
        )
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="queue-stats")
        self._lock = threading.Lock()
        self._under_way: Future[QueueStats] | None = None
        self._answers = True

    def describe(self) -> Iterable[Metric]:
        """Nothing: called at registration, when Redis may be unavailable."""
        return ()

    def collect(self) -> Iterable[Metric]:
        try:
            found: QueueStats | None = self._ask().result(PATIENCE)
            self._answers = True
        except (StoreUnavailable, TimeoutError) as error:
            if self._answers:
                log.warning("no metrics from Redis", error=str(error) or f"no answer in {PATIENCE:g} s")
            self._answers, found = False, None
        yield GaugeMetricFamily("duet_redis_up", "Whether Redis answers.", value=found is not None)
        if found is not None:
            yield from families(found)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._redis.close()

    def _ask(self) -> Future[QueueStats]:
        """One query at a time; scrapes meanwhile wait for the same result."""
        with self._lock:
            if self._under_way is None or self._under_way.done():
                self._under_way = self._pool.submit(queue_stats.take, self._redis)
            return self._under_way


def families(found: QueueStats) -> Iterable[Metric]:
    """The statistics as metrics."""
    jobs = GaugeMetricFamily("duet_jobs", "Stored jobs, by kind and status.", labels=("kind", "status"))
    for (kind, status), count in found.jobs.items():
        jobs.add_metric((kind, status), count)
    yield jobs
    queue = GaugeMetricFamily("duet_queue_length", "Queued jobs, by priority.", labels=("priority",))
    for priority, count in found.waiting.items():
        queue.add_metric((priority,), count)
    yield queue
    for name, meaning, value in (
        ("duet_queue_oldest_seconds", "Waiting time of the oldest queued job; 0 if there is none.", found.oldest),
        ("duet_jobs_held", "Jobs that a worker runs, or whose result waits on its disk.", found.held),
        ("duet_workers", "Workers with a valid heartbeat.", found.workers),
        ("duet_webhooks_waiting", "Webhooks to be sent or resent.", found.webhooks),
        (
            "duet_webhooks_late_seconds",
            "How long the first of them has been due; 0 if none is.",
            found.webhooks_late,
        ),
        ("duet_records_unreadable", "Jobs whose record this version of Duet cannot read.", found.unreadable),
        ("duet_redis_memory_bytes", "Memory that Redis uses.", found.memory),
        ("duet_redis_memory_limit_bytes", "Memory that Redis may use; 0: no limit.", found.memory_limit),
    ):
        yield GaugeMetricFamily(name, meaning, value=value)
