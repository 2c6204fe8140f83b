"""Throttles of previews, alone and with a shared parent."""

from __future__ import annotations

from workers.throttle import Throttle


def test_a_throttle_allows_once_per_interval() -> None:
    now = [0.0]
    throttle = Throttle(1.0, clock=lambda: now[0])
    due = []
    for tenth in range(35):
        now[0] = tenth / 10
        due.append(throttle.allow())
    assert [tenth for tenth, is_due in enumerate(due) if is_due] == [10, 20, 30]


def test_throttles_with_a_shared_parent_take_turns() -> None:
    now = [0.0]
    shared = Throttle(0.5, clock=lambda: now[0])
    first, second = (Throttle(0.5, shared, clock=lambda: now[0]) for _ in range(2))
    now[0] = 0.6
    assert (first.allow(), second.allow()) == (True, False)
    now[0] = 1.15
    assert (second.allow(), first.allow()) == (True, False)
