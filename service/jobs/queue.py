"""The queue: Celery messages that carry a job id, sent by the name of the task.

A message is only a wake-up; the record says what to do. So a lost message costs time, until the reaper sends another,
and a duplicate costs nothing. No code of the workers is imported here.

The broker is the Redis of the records, or RabbitMQ if DUET_BROKER_URL is set (`rabbit` has the differences).
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from amqp.exceptions import AMQPError
from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from service.jobs import rabbit
from service.jobs.connection import SOCKET_TIMEOUT, connect
from service.jobs.record import Job, made_at
from service.log import log
from service.settings import Settings

RUN_JOB = "duet.run_job"
"""Name of the task that runs a job; its one argument is the job's id, which is also the id of the message."""

QUEUE = "duet"

_PRIORITY = {"high": 3, "normal": 6, "low": 9}
"""Celery's priorities on Redis: 0 is first; the lists 0, 3, 6 and 9 exist."""

_REQUEUED = 0
"""Priority of a job that has waited its turn already, such as one that was claimed before."""

_STEP = 3
"""Difference of two adjacent priorities."""

_URGENCY = {priority: rabbit.MOST_URGENT - priority // _STEP for priority in (_REQUEUED, *_PRIORITY.values())}
"""The same as RabbitMQ's priorities."""

_MOVE = """
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 1 then redis.call('LPUSH', KEYS[2], ARGV[1]) end
"""


@dataclass(frozen=True)
class _Message:
    """A message in one of Redis' lists: its job, when that was made in seconds since 1970, and Celery's priority."""

    job_id: str
    made_at: float
    priority: int

    @classmethod
    def parsed(cls, raw: bytes) -> _Message | None:
        """None for a message that is not ours: a worker rejects it when it is its turn."""
        try:
            message = json.loads(raw)
            job_id = str(message["headers"]["id"])
            return cls(job_id, made_at(job_id), int(message["properties"]["priority"]))
        except (ValueError, KeyError, TypeError):
            return None


class QueueUnavailable(Exception):
    """The broker cannot be reached. Whether the message is in the queue is unknown."""


def celery_config(settings: Settings) -> dict[str, Any]:
    """Celery's settings, the same on both sides of the queue, with reasons."""
    # Above the hard limit of a job; otherwise the transport would redeliver the message of a running job repeatedly.
    # (The record would refuse the second run, but each refused copy counts as done.)
    visibility_timeout = settings.job_deadline.total_seconds() + 3600
    config: dict[str, Any] = {
        "broker_url": settings.broker_address or broker_url(settings.redis_url),
        "task_default_queue": QUEUE,
        # The record holds the result.
        "task_ignore_result": True,
        # A message is done when the job is, so that a dead worker's message comes back.
        "task_acks_late": True,
        # No prefetch: a worker holds only the messages of jobs that it runs. The others remain available to free
        # workers and sorted by priority, and do not die with a worker.
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,
        # A running job survives a restart of Redis and commits when Redis is back. True, the default of Celery 6, would
        # cancel it, and lose it if broker and records share that Redis.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # Keep the concurrency after a restart of Redis.
        "worker_enable_prefetch_count_reduction": False,
        # Redis may start after the worker, and may be unavailable for any time.
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_transport_options": {
            "visibility_timeout": visibility_timeout,
            # A worker restores overdue messages every 5 s. By Celery's defaults, every tenth of checks 10 s apart, an
            # overdue message would wait up to 100 s longer.
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            # For publishers: one retry at once, then an error that becomes a 503.
            "max_retries": 1,
            "interval_start": 0,
            "interval_step": 0.05,
            "interval_max": 0.05,
            "socket_connect_timeout": 1.0,
            "socket_keepalive": True,
        },
        # Celery reads it in these places too; if they differ, the shortest applies.
        "result_backend_transport_options": {"visibility_timeout": visibility_timeout},
        "visibility_timeout": visibility_timeout,
        # A pooled connection that Redis has closed fails on publishing; the retry uses a new one.
        "task_publish_retry": True,
        "task_publish_retry_policy": {"max_retries": 2, "interval_start": 0, "interval_step": 0.05},
        # Messages carry ids only and are never unpickled.
        "task_serializer": "json",
        "accept_content": ["json"],
        "enable_utc": True,
        # Keep our own logging configuration in the worker.
        "worker_hijack_root_logger": False,
    }
    return config | rabbit.config(settings.broker_address) if settings.broker_address else config


def broker_url(redis_url: str) -> str:
    """Redis' URL in Celery's notation, which has another scheme and another database parameter for Unix sockets, and
    verifies certificates only on request."""
    parts = urlsplit(redis_url)
    if parts.scheme == "rediss" and "ssl_cert_reqs" not in parse_qs(parts.query):
        return parts._replace(query="&".join(filter(None, (parts.query, "ssl_cert_reqs=required")))).geturl()
    if parts.scheme != "unix":
        return redis_url
    database = parse_qs(parts.query).get("db", ["0"])[0]
    user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    return f"redis+socket://{user}{parts.path}?virtual_host={database}"


class JobQueue:
    """The sending side."""

    def __init__(self, settings: Settings) -> None:
        self._celery = Celery("duet", set_as_current=False)
        config = celery_config(settings)
        self._rabbit: rabbit.Messages | None = None
        if settings.broker_address:
            self._rabbit = rabbit.Messages(self._celery, QUEUE, connect(settings), self._publish)
        else:  # not on the receiving side, whose connection is idle while there are no messages
            config["broker_transport_options"]["socket_timeout"] = SOCKET_TIMEOUT
        self._celery.conf.update(config)

    def connect(self) -> None:
        """Initialise what Celery otherwise creates at the first message, which then takes tens of milliseconds longer.

        Raises QueueUnavailable.
        """
        self._celery.finalize()
        _ = self._celery.amqp.send_task_message, self._celery.AsyncResult("")  # created on first access
        with _reachable(), self._celery.producer_or_acquire() as producer:
            producer.connection.ensure_connection(max_retries=1, interval_start=0)

    def enqueue(self, job: Job, waited: bool = False) -> None:
        """Send the wake-up for a job whose record is written. One that has `waited` its turn goes first, as one
        that was claimed before. Raises QueueUnavailable."""
        with _reachable():
            priority = _REQUEUED if job.attempt or waited else _PRIORITY[job.priority]
            if self._rabbit:
                self._rabbit.send(job.id, _URGENCY[priority])
            else:
                self._publish(job.id, priority)

    def taken(self, job_id: str) -> None:
        """Called by the worker that received a message of this job, before anything else."""
        if self._rabbit is None:
            return  # Redis' list no longer has it
        try:
            with _reachable():
                self._rabbit.taken(job_id)
        except QueueUnavailable as error:  # `rabbit.Messages.waiting` corrects it
            log.warning("Redis does not answer", job=job_id, error=str(error))

    def waiting(self) -> set[str]:
        """Ids of the jobs with a message in the queue. Raises QueueUnavailable."""
        with _reachable():
            return self._rabbit.waiting() if self._rabbit else self._listed()

    def age(self, seconds: float) -> None:
        """Raise the priority of each message by one for every `seconds` that it has waited.

        Both brokers deliver strictly by priority, so without this urgent jobs could starve the others.
        Raises QueueUnavailable.
        """
        with _reachable():
            if self._rabbit:
                self._rabbit.age(seconds)
            else:
                self._move_up(seconds)

    def close(self) -> None:
        if self._rabbit:
            self._rabbit.close()
        self._celery.close()

    def _publish(self, job_id: str, priority: int) -> None:
        waits = {"confirm_timeout": rabbit.CONFIRM_TIMEOUT} if self._rabbit else {}
        self._celery.send_task(RUN_JOB, args=[job_id], task_id=job_id, priority=priority, **waits)

    def _listed(self) -> set[str]:
        with self._celery.connection_for_read() as connection:
            channel = connection.default_channel
            lists = [channel._q_for_pri(QUEUE, priority) for priority in channel.priority_steps]
            messages = [_Message.parsed(raw) for name in lists for raw in channel.client.lrange(name, 0, -1)]
            return {message.job_id for message in messages if message is not None}

    def _move_up(self, seconds: float) -> None:
        """Move each message to the list of its current priority."""
        now = time.time()
        with self._celery.connection_for_read() as connection:
            channel = connection.default_channel
            for place in (_PRIORITY["normal"], _PRIORITY["low"]):
                messages: list[bytes] = channel.client.lrange(channel._q_for_pri(QUEUE, place), 0, -1)
                for raw in reversed(messages):  # the oldest first
                    message = _Message.parsed(raw)
                    if message is None:
                        continue
                    due = message.priority - _STEP * int((now - message.made_at) / seconds)
                    due = max(due, _PRIORITY["high"])
                    if due < place:
                        keys = [channel._q_for_pri(QUEUE, priority) for priority in (place, due)]
                        channel.client.eval(_MOVE, 2, *keys, raw)


@contextlib.contextmanager
def _reachable() -> Iterator[None]:
    try:
        yield
    except (OperationalError, AMQPError, RedisError, OSError) as error:
        raise QueueUnavailable(str(error)) from error
