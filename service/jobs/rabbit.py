"""RabbitMQ as the broker: what its queue does in another way than Redis' lists.

A queue with priorities of its own replaces the four lists, and the greater number goes first. Nobody can read its
messages without taking them, so Redis keeps beside it which job has a message:

    duet:messages              ids of the jobs for which a message was sent that no worker has taken; the score is ten
                               times the urgency of that message, plus how often it was raised since

It is a note, not a second truth. It is made before the message is sent, and struck out when a worker takes one. If
RabbitMQ holds fewer messages than there are notes, some were lost: then all notes go, and whoever has waited for too
long gets another message. One too many costs nothing.
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
"""Of jobs that were claimed before; `high` has 2, `normal` 1, `low` 0."""

_HIGH = 2
_TENS = 10
_NOTES = "duet:messages"
_RAISE = """
local known = redis.call('ZSCORE', KEYS[1], ARGV[2])
if not known or tonumber(known) >= tonumber(ARGV[1]) then return 0 end
redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2])
return 1
"""

CONFIRM_TIMEOUT = 2.0
"""Seconds in which RabbitMQ confirms a message; one that has run out of memory or disk confirms none."""


def config(address: str) -> dict[str, Any]:
    """Celery's settings that differ, each with its reason."""
    parts = urlsplit(address)
    # The name in the certificate is compared only where it is said which one is meant.
    secured = {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": parts.hostname} if parts.scheme == "amqps" else None
    return {
        "broker_use_ssl": secured,
        "task_queue_max_priority": MOST_URGENT,
        # Celery knows it for Redis only. A worker has as many messages in hand as it has slots: those of its jobs.
        "worker_disable_prefetch": False,
        # Seconds: whoever submits a job waits meanwhile.
        "broker_connection_timeout": 2.0,
        "broker_transport_options": {
            # An answer says that RabbitMQ has the message, not only that it was sent.
            "confirm_publish": True,
            "max_retries": 1,
            "interval_start": 0,
            "interval_step": 0.05,
            "interval_max": 0.05,
        },
    }


class Messages:
    """The messages that wait for a worker, as far as it can be known. Raises what Redis and RabbitMQ raise.

    `publish(job_id, urgency)` hands one to RabbitMQ, for the queue `queue`.
    """

    def __init__(self, celery: Celery, queue: str, client: redis.Redis, publish: Callable[[str, int], None]) -> None:
        self._celery = celery
        self._queue = queue
        self._redis = client
        self._publish = publish
        self._raise = client.register_script(_RAISE)

    def send(self, job_id: str, urgency: int) -> None:
        """Note the message, and send it: in this order, or a worker that takes it at once would leave the note."""
        self._redis.zadd(_NOTES, {job_id: _TENS * urgency}, gt=True)
        self._publish(job_id, urgency)

    def taken(self, job_id: str) -> None:
        """A worker has taken a message of this job."""
        self._redis.zrem(_NOTES, job_id)

    def waiting(self) -> set[str]:
        """Ids of the jobs that have a message; none where some of the messages are lost."""
        held = self._held()
        noted: Any = self._redis.zrange(_NOTES, 0, -1)
        if held < len(noted):
            self._redis.delete(_NOTES)
            return set()
        return {job_id.decode() for job_id in noted}

    def age(self, seconds: float) -> None:
        """Send a more urgent message for each job that has waited for `seconds` since the last; the one before finds
        nothing to do when its turn comes."""
        now = time.time()
        noted: Any = self._redis.zrangebyscore(_NOTES, 0, f"({_TENS * _HIGH}", withscores=True)
        for name, score in noted:
            job_id = name.decode()
            urgency, raised = divmod(int(score), _TENS)
            due = min(int((now - made_at(job_id)) / seconds), _HIGH - urgency)
            # One of all reapers sends it.
            if due > raised and self._raise(keys=[_NOTES], args=[_TENS * urgency + due, job_id]):
                self._publish(job_id, urgency + due)

    def close(self) -> None:
        self._redis.close()

    def _held(self) -> int:
        """Messages that RabbitMQ has given to nobody."""
        with self._celery.connection_for_read() as connection, connection.channel() as channel:
            return int(self._celery.amqp.queues[self._queue].bind(channel).queue_declare().message_count)
