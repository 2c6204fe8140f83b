"""Limits on what one API key has open at a time, over all API processes: event streams and uploads.

Each open stream or upload is a member of a sorted set of its key in Redis, scored by the time at which it expires. The
process that has it open renews it; the members of a process that died expire.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import redis
from anyio import CancelScope
from starlette.concurrency import run_in_threadpool

from service.jobs.connection import StoreUnavailable, reachable
from service.jobs.scripts import NOW
from service.log import log
from service.periodic import Periodic

TTL_S = 30.0
"""Seconds after which what a dead process had open is no longer counted."""

# A time further ahead than the TTL was written before Redis' clock went back; a live process renews its own.
_TAKE = f"""
{NOW}
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '(' .. now + ARGV[1], '+inf')
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end
redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
"""
_RENEW = f"""
{NOW}
for i, key in ipairs(KEYS) do
  redis.call('ZADD', key, now + ARGV[1], ARGV[i + 1])
  redis.call('PEXPIRE', key, ARGV[1])
end
"""


class TooManyOpen(Exception):
    """The key has as many open as it may."""


class ConcurrencyLimits:
    """Counts in Redis. A thread renews what this process has open, while this context manager is open."""

    def __init__(
        self, client: redis.Redis, ttl: float = TTL_S, failed: Callable[[str], None] = lambda name: None
    ) -> None:
        """`ttl` in seconds; `failed` is called with the thread's name for each renewal that fails."""
        self._redis = client
        self._ttl = int(ttl * 1000)
        self._take_one = client.register_script(_TAKE)
        self._renew_all = client.register_script(_RENEW)
        self._open: dict[str, str] = {}
        """Redis key by member."""
        retry = min(0.5, ttl / 3)
        self._renewal = Periodic(
            "concurrency",
            self.renew,
            ttl / 3,
            retry=retry,
            longest=ttl / 3,
            expected=(StoreUnavailable,),
            failed=failed,
        )

    def __enter__(self) -> ConcurrencyLimits:
        self._renewal.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._renewal.stop()

    @asynccontextmanager
    async def slot(self, what: str, key: str | None, most: int) -> AsyncIterator[None]:
        """Count one more `what` of the API key named `key` as long as the context is open; None counts those without.

        Raises TooManyOpen if the key has `most` open, StoreUnavailable.
        """
        member, counted_in = secrets.token_hex(8), f"duet:open:{what}:{key or ''}"
        if not await run_in_threadpool(self._take, counted_in, member, most):
            raise TooManyOpen(f"{most} {what}")
        self._open[member] = counted_in
        try:
            yield
        finally:
            del self._open[member]
            with CancelScope(shield=True):
                await run_in_threadpool(self._free, counted_in, member)

    def renew(self) -> None:
        """Renew what is open in this process. Raises StoreUnavailable."""
        held = dict(self._open)
        if not held:
            return
        with reachable():
            self._renew_all(keys=list(held.values()), args=[self._ttl, *held])
        for member in held.keys() - self._open.keys():  # closed meanwhile, perhaps before the script ran
            self._free(held[member], member)

    def _take(self, counted_in: str, member: str, most: int) -> bool:
        with reachable():
            taken: Any = self._take_one(keys=[counted_in], args=[self._ttl, most, member])
        return bool(taken)

    def _free(self, counted_in: str, member: str) -> None:
        try:
            with reachable():
                self._redis.zrem(counted_in, member)
        except StoreUnavailable as error:  # it expires
            log.warning("not removed from its limit", key=counted_in, error=str(error))
