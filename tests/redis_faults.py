"""A Redis that answers and refuses: errors that a real Redis gives, for as long as a context lasts.

Entering a context raises redis.RedisError if Redis is away. Leaving it raises nothing: a Redis that was restarted
meanwhile has no fault any more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry


@contextmanager
def configured(client: redis.Redis, name: str, value: str, normal: str) -> Iterator[None]:
    client.config_set(name, value)
    try:
        yield
    finally:
        with suppress(redis.RedisError):
            client.config_set(name, normal)


@contextmanager
def replica(client: redis.Redis) -> Iterator[None]:
    """Read-only, as the old master is after a failover."""
    client.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        yield
    finally:
        with suppress(redis.RedisError):
            client.execute_command("REPLICAOF", "NO", "ONE")


@contextmanager
def busy(client: redis.Redis) -> Iterator[None]:
    """In a script that does not end."""
    client.config_set("lua-time-limit", 100)
    loop = threading.Thread(target=_loop, args=[client.connection_pool.connection_kwargs["path"]])
    loop.start()
    try:
        yield
    finally:
        with suppress(redis.RedisError):
            client.script_kill()
            loop.join()
            client.config_set("lua-time-limit", 5000)


def _loop(path: str) -> None:
    once = Retry(NoBackoff(), 0)
    with redis.Redis(unix_socket_path=path, socket_timeout=None, retry=once) as other, suppress(redis.RedisError):
        other.eval("while true do end", 0)


FAULTS: dict[str, Callable[[redis.Redis], AbstractContextManager[None]]] = {
    "full": lambda client: configured(client, "maxmemory", "1mb", "0"),
    "read-only": replica,
    "without replicas": lambda client: configured(client, "min-replicas-to-write", "1", "0"),
    "busy": busy,
}
"""By name; `client` is connected by a Unix socket."""
