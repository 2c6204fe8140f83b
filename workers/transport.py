"""Additions to Celery's consumer: a Redis transport that survives errors of its Redis, and a prompt shutdown.

Errors that Redis answers with. Celery reconnects after errors of the connection and gives up after all others. A Redis
that is full (OOM), a replica after a failover (READONLY), one that has lost its replicas (NOREPLICAS), that runs a long
script (BUSY) or cannot save (MISCONF) refuses commands of the consumer for a while. Here every RedisError counts as an
error of the connection, so the consumer reconnects until Redis accepts its commands again.

Closed channels. When the connection is lost, kombu closes its channels and restores unacknowledged messages; a job that
ends later is acknowledged on the closed channel. Both ask the channel for a new connection, whose parameters a closed
channel no longer has: the AttributeError that follows (seen with kombu 5.7) ends the consumer. Here it is a lost
connection as well. No job is lost: the reaper sends a message for each queued job without one, and a surplus message
finds nothing to do.

Shutdown. The consumer sleeps until its broker sends something or a timer is due, and a signal does not wake it. The
Redis transport has timers; RabbitMQ's first is after 40 s, longer than the grace period of a worker.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.bootsteps import StartStopStep
from kombu.transport import TRANSPORT_ALIASES, redis, virtual
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import RedisError, ResponseError

WAKE_INTERVAL = 0.5
"""Seconds between two checks whether the worker is to stop."""

REFUSED_PAUSE = 0.5
"""Seconds before the consumer reconnects to a Redis that refused its commands: it would be refused at once again."""


def install() -> None:
    """Use this transport for `redis://`, `rediss://` and Unix sockets in this process."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"


def add_steps(celery: Celery, on_close: Callable[[], None]) -> None:
    """Wake the consumer of `celery` every WAKE_INTERVAL seconds, and call `on_close` before its pool is stopped."""

    class Steps(StartStopStep):
        requires = ("celery.worker.components:Hub",)

        def start(self, worker: Any) -> None:
            worker.hub.call_repeatedly(WAKE_INTERVAL, lambda: None)

        def close(self, worker: Any) -> None:
            on_close()

    celery.steps["worker"].add(Steps)


class QoS(redis.QoS):
    """The unacknowledged messages of one channel.

    A message whose acknowledgement Redis refuses gives up its place all the same. Otherwise it would count against the
    prefetch limit for good, and the consumer would take no other message. Its copy in Redis comes back after the
    visibility timeout, and finds nothing to do.
    """

    def ack(self, delivery_tag: str) -> None:
        try:
            super().ack(delivery_tag)
        finally:
            virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        try:
            super().reject(delivery_tag, requeue)
        finally:
            virtual.QoS.ack(self, delivery_tag)

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Return them to the queue, unless the connection is gone."""
        if not self.channel.gone:
            super().restore_unacked_once(stderr)


class Channel(redis.Channel):
    """A channel that knows when its connection is gone."""

    QoS = QoS

    @property
    def gone(self) -> bool:
        return self.connection is None or self.connection.client is None

    def _connparams(self, *arguments: Any, **named: Any) -> Any:
        if self.gone:
            raise ConnectionLost("the channel was closed when its connection was lost")
        return super()._connparams(*arguments, **named)

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except ResponseError:
            time.sleep(REFUSED_PAUSE)
            raise


class Transport(redis.Transport):
    """`redis` with these channels and errors."""

    Channel = Channel
    connection_errors = (*redis.Transport.connection_errors, RedisError)
