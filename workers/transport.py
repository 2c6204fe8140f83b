"""Celery's Redis transport, so that a worker outlives a Redis that dies while jobs run.

When the connection is lost, kombu closes its channels, and gives unacknowledged messages back as it does so; a job that
ends later is acknowledged on the closed channel. Both ask the channel for a new connection, which a closed one has no
address for: the AttributeError that follows (seen with kombu 5.7) ends the consumer for good. Here it is a lost
connection like any other, which kombu and Celery know how to take. Nothing is lost: the reaper sends a message for each
job that waits without one, and a message too many finds nothing to do.
"""

from __future__ import annotations

from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis
from redis.exceptions import ConnectionError as ConnectionLost


def install() -> None:
    """Make it the transport of `redis://`, `rediss://` and Unix sockets in this process."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"


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
