"""Connections to Redis, and the one place where redis-py's errors are translated."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from service.settings import Settings

SOCKET_TIMEOUT = 2.0
"""Seconds that a command may take."""

MAX_CONNECTIONS = 64
"""Connections of one client at a time. A process has a few dozen threads, and any number of event streams."""


class StoreUnavailable(Exception):
    """Redis cannot be reached, or refuses the command (full, read-only, too few replicas, busy with a script).

    The outcome of a change that was under way is unknown.
    """


class StoreTimeout(StoreUnavailable):
    """Redis accepted the connection but did not answer within SOCKET_TIMEOUT, as with a busy disk."""


@contextlib.contextmanager
def reachable() -> Iterator[None]:
    """Wraps every use of a Redis client: any error of redis-py becomes StoreUnavailable.

    Error replies are included: NOREPLICAS, BUSY, MISCONF, READONLY and OOM arrive as plain ResponseErrors when a script
    meets them, and none of them is the caller's fault.
    """
    try:
        yield
    except redis.TimeoutError as error:
        raise StoreTimeout(str(error)) from error
    except redis.RedisError as error:
        raise StoreUnavailable(str(error) or type(error).__name__) from error


def connect(settings: Settings) -> redis.Redis:
    """A client that gives up within seconds, so that a request is answered with 503 rather than kept waiting.

    Broken connections are retried, timeouts are not: redis-py retries both around connecting and around the command, so
    a server that accepts connections and never answers would cost nine times the timeout.
    """
    pool = redis.BlockingConnectionPool.from_url(settings.redis_url, **_options(Retry))
    return redis.Redis.from_pool(pool)


def connect_async(settings: Settings) -> redis.asyncio.Redis:
    """The same for an event loop."""
    pool = redis.asyncio.BlockingConnectionPool.from_url(settings.redis_url, **_options(AsyncRetry))
    return redis.asyncio.Redis.from_pool(pool)


def _options(retry: type[Retry] | type[AsyncRetry]) -> dict[str, Any]:
    return {
        # A command waits for a free connection. redis-py's other pool fails at once when all are in use.
        "max_connections": MAX_CONNECTIONS,
        "timeout": SOCKET_TIMEOUT,
        "socket_connect_timeout": 1.0,
        "socket_timeout": SOCKET_TIMEOUT,
        "health_check_interval": 30,
        "retry": retry(ExponentialBackoff(cap=0.1, base=0.02), 2, (redis.exceptions.ConnectionError,)),
    }
