"""RabbitMQ as the broker: the differences from Redis' lists.

One queue with priorities replaces the four lists; the greater number goes first. Its messages cannot be read without
consuming them, so Redis records which jobs have a message:

    duet:messages              ids of the jobs with a message that no worker has received; the score is ten times the
                               priority of the message, plus the number of times that it was raised

An entry is added before the message is sent and removed when a worker receives one. If RabbitMQ holds fewer messages
than there are entries, some were lost: all entries are removed, and overdue jobs get another message. A superfluous
message costs nothing.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import redis
from celery import Celery

from service.jobs.record import made_at

MOST_URGENT = 3
"""Priority of jobs that were claimed before; `high` is 2, `normal` 1, `low` 0."""

_HIGH = 2
_TENS = 10
_MESSAGES = "duet:messages"
_RAISE = """
local known = redis.call('ZSCORE', KEYS[1], ARGV[2])
if not known or tonumber(known) >= tonumber(ARGV[1]) then return 0 end
redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2])
return 1
"""

CONFIRM_TIMEOUT = 2.0
"""Seconds to wait for RabbitMQ's confirm; without memory or disk space it sends none."""


def config(address: str) -> dict[str, Any]:
    """Celery's settings that differ, with reasons."""
    parts = urlsplit(address)
    # The certificate's name is checked only if the expected name is given.
    secured = {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": parts.hostname} if parts.scheme == "amqps" else None
    return {
        "broker_use_ssl": secured,
        "task_queue_max_priority": MOST_URGENT,
        # Celery supports it for Redis only. A worker holds as many messages as it has slots: those of its jobs.
        "worker_disable_prefetch": False,
        # Seconds; a submission waits meanwhile.
        "broker_connection_timeout": 2.0,
        "broker_transport_options": {
            # Return when RabbitMQ has the message, not when it is sent.
            "confirm_publish": True,
            "max_retries": 1,
            "interval_start": 0,
            "interval_step": 0.05,
            "interval_max": 0.05,
        },
    }


class Messages:
    """The messages in the queue, as far as known. Raises what the Redis and RabbitMQ clients raise.

    `publish(job_id, priority)` sends one to the queue `queue`.
    """

    def __init__(self, celery: Celery, queue: str, client: redis.Redis, publish: Callable[[str, int], None]) -> None:
        self._celery = celery
        self._queue = queue
        self._redis = client
        self._publish = publish
        self._raise = client.register_script(_RAISE)

    def send(self, job_id: str, urgency: int) -> None:
        """Add the entry, then send the message. In the other order a fast worker would leave the entry behind."""
        self._redis.zadd(_MESSAGES, {job_id: _TENS * urgency}, gt=True)
        self._publish(job_id, urgency)

    def taken(self, job_id: str) -> None:
        """A worker has received a message of this job."""
        self._redis.zrem(_MESSAGES, job_id)

    def waiting(self) -> set[str]:
        """Ids of the jobs that have a message; none if messages were lost."""
        held = self._held()
        entries: Any = self._redis.zrange(_MESSAGES, 0, -1)
        if held < len(entries):
            self._redis.delete(_MESSAGES)
            return set()
        return {job_id.decode() for job_id in entries}

    def age(self, seconds: float) -> None:
        """Send a message of higher priority for each job that has waited `seconds` since the last one; the earlier
        message finds nothing to do later."""
        now = time.time()
        entries: Any = self._redis.zrangebyscore(_MESSAGES, 0, f"({_TENS * _HIGH}", withscores=True)
        for name, score in entries:
            job_id = name.decode()
            urgency, raised = divmod(int(score), _TENS)
            due = min(int((now - made_at(job_id)) / seconds), _HIGH - urgency)
            # Only one of all reapers sends it.
            if due > raised and self._raise(keys=[_MESSAGES], args=[_TENS * urgency + due, job_id]):
                self._publish(job_id, urgency + due)

    def close(self) -> None:
        self._redis.close()

    def _held(self) -> int:
        """Number of messages in RabbitMQ that no worker has received."""
        with self._celery.connection_for_read() as connection, connection.channel() as channel:
            return int(self._celery.amqp.queues[self._queue].bind(channel).queue_declare().message_count)
