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


@contextmanager
def stale_replica(client: redis.Redis) -> Iterator[None]:
    """A replica that has lost its master and serves no old data (MASTERDOWN)."""
    with configured(client, "replica-serve-stale-data", "no", "yes"), replica(client):
        yield


@contextmanager
def closed_to_strangers(client: redis.Redis) -> Iterator[None]:
    """With another password than its clients know (NOAUTH). Their connections are closed, so that they notice."""
    with configured(client, "requirepass", "another", ""):
        client.execute_command("AUTH", "another")
        _kill_others(client)
        yield


@contextmanager
def crowded(client: redis.Redis) -> Iterator[None]:
    """With as many clients as it may have (ERR max number of clients reached)."""
    with configured(client, "maxclients", "1", "10000"):
        _kill_others(client)
        yield


@contextmanager
def cutting(client: redis.Redis) -> Iterator[None]:
    """Closes every connection, ten times a second."""
    over = threading.Event()

    def cut() -> None:
        while not over.wait(0.1):
            _kill_others(client)

    thread = threading.Thread(target=cut)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def cannot_save(client: redis.Redis) -> Iterator[None]:
    """Whose last snapshot has failed (MISCONF)."""
    folder = client.config_get("dir")["dir"]
    client.config_set("dir", "/proc")
    client.config_set("save", "3600 1")
    client.bgsave()
    try:
        yield
    finally:
        with suppress(redis.RedisError):
            client.config_set("save", "")
            client.config_set("dir", folder)


def _kill_others(client: redis.Redis) -> None:
    with suppress(redis.RedisError):
        for kind in ("normal", "pubsub"):
            client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")


FAULTS: dict[str, Callable[[redis.Redis], AbstractContextManager[None]]] = {
    "full": lambda client: configured(client, "maxmemory", "1mb", "0"),
    "read-only": replica,
    "without replicas": lambda client: configured(client, "min-replicas-to-write", "1", "0"),
    "busy": busy,
    "stale": stale_replica,
    "closed": closed_to_strangers,
    "crowded": crowded,
    "cutting": cutting,
    "cannot save": cannot_save,
}
"""By name; `client` is connected by a Unix socket."""
