"""Previews keep to their pace, each of them and all together."""

from __future__ import annotations

from workers.throttle import Pace


def test_it_is_due_once_in_its_time() -> None:
    now = [0.0]
    pace = Pace(1.0, clock=lambda: now[0])
    due = []
    for tenth in range(35):
        now[0] = tenth / 10
        due.append(pace.due())
    assert [tenth for tenth, is_due in enumerate(due) if is_due] == [10, 20, 30]


def test_what_shares_a_pace_takes_turns() -> None:
    now = [0.0]
    whole = Pace(0.5, clock=lambda: now[0])
    first, second = (Pace(0.5, whole, clock=lambda: now[0]) for _ in range(2))
    now[0] = 0.6
    assert (first.due(), second.due()) == (True, False)
    now[0] = 1.15
    assert (second.due(), first.due()) == (True, False)
