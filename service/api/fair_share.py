"""A limit on concurrency that is shared fairly: no caller can take every slot, and callers take turns."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager


class FairLimiter:
    """At most `total` slots in use at a time, at most `most` of them by one caller. Freed slots go to the waiting
    callers in turn, so one request of one caller waits for at most one of each other caller. For one event loop."""

    def __init__(self, total: int, most: int) -> None:
        self._free = total
        self._most = most
        self._held: Counter[Hashable] = Counter()
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}
        """In order of turns: the caller that was served last is last."""

    @asynccontextmanager
    async def slot(self, caller: Hashable) -> AsyncIterator[None]:
        """Hold a slot as long as the context is open."""
        await self._acquire(caller)
        try:
            yield
        finally:
            self._release(caller)

    async def _acquire(self, caller: Hashable) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(turn)
        self._assign()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release(caller)
            raise

    def _release(self, caller: Hashable) -> None:
        self._free += 1
        self._held[caller] -= 1
        if not self._held[caller]:
            del self._held[caller]
        self._assign()

    def _assign(self) -> None:
        """Give free slots to the callers whose turn it is."""
        while self._free and (ready := [each for each in self._waiting if self._held[each] < self._most]):
            caller = ready[0]
            turns = self._waiting.pop(caller)
            turn = turns.popleft()
            if turns:
                self._waiting[caller] = turns
            if not turn.cancelled():
                self._free -= 1
                self._held[caller] += 1
                turn.set_result(None)
