"""What Celery's consumer lacks: a Redis transport that outlives its Redis, and an ear for the signal to stop.

When the connection is lost, kombu closes its channels, and gives unacknowledged messages back as it does so; a job that
ends later is acknowledged on the closed channel. Both ask the channel for a new connection, which a closed one has no
address for: the AttributeError that follows (seen with kombu 5.7) ends the consumer for good. Here it is a lost
connection like any other, which kombu and Celery know how to take. Nothing is lost: the reaper sends a message for each
job that waits without one, and a message too many finds nothing to do.

The consumer sleeps until its broker says something or a timer is due, and a signal does not wake it. Redis' transport
has timers; RabbitMQ's has one in 40 s, longer than the grace of a worker that is to stop.
"""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.bootsteps import StartStopStep
from kombu.transport import TRANSPORT_ALIASES, redis
from redis.exceptions import ConnectionError as ConnectionLost

LOOK = 0.5
"""Seconds between two looks whether the worker is to stop."""


def install() -> None:
    """Make it the transport of `redis://`, `rediss://` and Unix sockets in this process."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"


def keep_awake(celery: Celery) -> None:
    """Let the consumer of `celery` look up every LOOK seconds."""
    celery.steps["worker"].add(Awake)


class Awake(StartStopStep):
    """A timer that does nothing; the consumer's loop asks after each whether it is to stop."""

    requires = ("celery.worker.components:Hub",)

    def start(self, worker: Any) -> None:
        worker.hub.call_repeatedly(LOOK, lambda: None)


class QoS(redis.QoS):
    """The unacknowledged messages of one channel."""

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Give them back, unless the connection is gone."""
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


class Transport(redis.Transport):
    """`redis` with these channels."""

    Channel = Channel
