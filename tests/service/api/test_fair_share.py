"""Fair sharing of slots between callers."""

from __future__ import annotations

import asyncio

import anyio

from service.api.fair_share import FairLimiter


async def _hold(limiter: FairLimiter, caller: str | None, order: list[str | None], seconds: float = 0.01) -> None:
    async with limiter.slot(caller):
        order.append(caller)
        await asyncio.sleep(seconds)


def test_one_caller_with_many_requests_leaves_a_slot_for_others() -> None:
    async def run() -> None:
        limiter, order = FairLimiter(2, 1), list[str | None]()
        flood = [asyncio.create_task(_hold(limiter, "alice", order, 10)) for _ in range(14)]
        await asyncio.sleep(0)
        await asyncio.wait_for(_hold(limiter, "bob", order), 1)
        for task in flood:
            task.cancel()
        await asyncio.gather(*flood, return_exceptions=True)
        assert order == ["alice", "bob"]
        await asyncio.wait_for(_hold(limiter, "alice", order), 1)

    anyio.run(run)


def test_callers_take_turns() -> None:
    async def run() -> list[str | None]:
        limiter, order = FairLimiter(1, 1), list[str | None]()
        callers = ["alice"] * 5 + ["bob", "carol"]
        await asyncio.gather(*(_hold(limiter, caller, order) for caller in callers))
        return order

    assert anyio.run(run) == ["alice", "alice", "bob", "carol", "alice", "alice", "alice"]


def test_the_caller_without_a_name_uses_every_slot() -> None:
    async def run() -> None:
        limiter, order = FairLimiter(2, 2), list[str | None]()
        tasks = [asyncio.create_task(_hold(limiter, None, order)) for _ in range(4)]
        await asyncio.sleep(0.005)
        assert order == [None, None]
        await asyncio.gather(*tasks)
        assert order == [None] * 4

    anyio.run(run)
