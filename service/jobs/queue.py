"""The hand-over to the workers: a Celery message that carries a job id, sent by the task's name.

The message is only a wake-up; what is to be done stands in the record. So a lost message costs time (the reaper sends
another) and a doubled one costs nothing, and no code of the workers is imported here.

The broker is the Redis of the records, or RabbitMQ where DUET_BROKER_URL names one (`rabbit` has what differs).
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
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
"""Celery's numbers on Redis: 0 goes first; 0, 3, 6 and 9 are the lists that exist."""

_AGAIN = 0
"""For a job that was claimed before: it has waited its turn, and the queue may have become long since."""

_STEP = 3
"""Between one of these numbers and the next."""

_URGENCY = {priority: rabbit.MOST_URGENT - priority // _STEP for priority in (_AGAIN, *_PRIORITY.values())}
"""RabbitMQ's numbers for them."""

_MOVE = """
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 1 then redis.call('LPUSH', KEYS[2], ARGV[1]) end
"""


class QueueUnavailable(Exception):
    """The broker cannot be reached; the message may or may not be in the queue."""


def celery_config(settings: Settings) -> dict[str, Any]:
    """Celery's settings, the same on both sides of the queue, each with its reason."""
    # Above the hard limit of a job: else the transport would deliver the message of a job that still runs once more,
    # again and again. (The record would refuse the second run. But each refused copy is taken as done.)
    visibility_timeout = settings.job_deadline.total_seconds() + 3600
    config: dict[str, Any] = {
        "broker_url": settings.broker_address or broker_url(settings.redis_url),
        "task_default_queue": QUEUE,
        # The record holds the result: Celery's own would be a second truth.
        "task_ignore_result": True,
        # A message is done when the job is, so that a dead worker's message comes back.
        "task_acks_late": True,
        # Prefetch off: a worker holds the messages of the jobs that it runs. All others stay where a free worker, or a
        # more urgent job, finds them, and are not lost to a worker that dies with them in its hands.
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,
        # A running job outlives a Redis restart: it goes on, and commits with its token when Redis is back. True, which
        # Celery 6 makes the default, would cancel it, and lose it where broker and records share the Redis that died.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # And it may have as much company after the restart as before.
        "worker_enable_prefetch_count_reduction": False,
        # Redis may start after the worker, and may be away for as long as it likes.
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_transport_options": {
            "visibility_timeout": visibility_timeout,
            # A worker looks for messages that are due to come back every so many seconds, at each look. As they are by
            # default, 10 and every tenth look, a message that is due would wait for up to 100 s more.
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            # For whoever publishes: one more try at once, then an error that becomes a 503.
            "max_retries": 1,
            "interval_start": 0,
            "interval_step": 0.05,
            "interval_max": 0.05,
            "socket_connect_timeout": 1.0,
            "socket_keepalive": True,
        },
        # Celery reads it in these places too; where they differ, the shortest wins.
        "result_backend_transport_options": {"visibility_timeout": visibility_timeout},
        "visibility_timeout": visibility_timeout,
        # A pooled connection that Redis closed meanwhile is noticed on publishing: the second try has a new one.
        "task_publish_retry": True,
        "task_publish_retry_policy": {"max_retries": 2, "interval_start": 0, "interval_step": 0.05},
        # Ids only: nothing that arrives in a message is ever unpickled.
        "task_serializer": "json",
        "accept_content": ["json"],
        "enable_utc": True,
        # Our own log set-up stays in force in the worker.
        "worker_hijack_root_logger": False,
    }
    return config | rabbit.config(settings.broker_address) if settings.broker_address else config


def broker_url(redis_url: str) -> str:
    """Redis' address as Celery writes it: a Unix socket has another scheme there, and another name for the database.
    And it looks at certificates only where it is told to."""
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
        else:  # not on the receiving side, whose connection is silent for as long as there is nothing to do
            config["broker_transport_options"]["socket_timeout"] = SOCKET_TIMEOUT
        self._celery.conf.update(config)

    def connect(self) -> None:
        """Do now what Celery else puts off until the first message, which then takes tens of milliseconds.

        Raises QueueUnavailable.
        """
        self._celery.finalize()
        _ = self._celery.amqp.send_task_message, self._celery.AsyncResult("")  # each is made when first asked for
        with _reachable(), self._celery.producer_or_acquire() as producer:
            producer.connection.ensure_connection(max_retries=1, interval_start=0)

    def enqueue(self, job: Job) -> None:
        """Send the wake-up for a job whose record is written. Raises QueueUnavailable."""
        with _reachable():
            priority = _AGAIN if job.attempt else _PRIORITY[job.priority]
            if self._rabbit:
                self._rabbit.send(job.id, _URGENCY[priority])
            else:
                self._publish(job.id, priority)

    def taken(self, job_id: str) -> None:
        """For the worker that has taken a message of this job, before it does anything else."""
        if self._rabbit is None:
            return  # it is off its list
        try:
            with _reachable():
                self._rabbit.taken(job_id)
        except QueueUnavailable as error:  # a note too many is noticed later: `rabbit.Messages.waiting`
            log.warning("Redis does not answer", job=job_id, error=str(error))

    def waiting(self) -> set[str]:
        """Ids of the jobs for which a message waits that nobody has taken yet. Raises QueueUnavailable."""
        with _reachable():
            return self._rabbit.waiting() if self._rabbit else self._listed()

    def age(self, seconds: float) -> None:
        """Raise the priority of each message that has waited for `seconds` by one, once for each such time.

        Both brokers are strict: whoever is more urgent comes first. So without this one urgent job after another could
        keep the others waiting for good. Raises QueueUnavailable.
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
            return {json.loads(raw)["headers"]["id"] for name in lists for raw in channel.client.lrange(name, 0, -1)}

    def _move_up(self, seconds: float) -> None:
        """Move each message of Redis' lists to where it belongs by now."""
        now = time.time()
        with self._celery.connection_for_read() as connection:
            channel = connection.default_channel
            for place in (_PRIORITY["normal"], _PRIORITY["low"]):
                messages: list[bytes] = channel.client.lrange(channel._q_for_pri(QUEUE, place), 0, -1)
                for raw in reversed(messages):  # the one that has waited longest comes out, and is moved, first
                    message = json.loads(raw)
                    waited = now - made_at(message["headers"]["id"])
                    due = message["properties"]["priority"] - _STEP * int(waited / seconds)
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
