"""Who rates what: balanced, mixed, and the same when computed again."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from service.study.assignment import assign

GROUPS = [[f"{label}{number}" for number in range(count)] for label, count in (("a", 13), ("b", 7), ("c", 20))]
CHECKS = ["check1", "check2"]


@pytest.mark.parametrize(("raters", "repeats"), [(9, 4), (12, 5), (5, 5), (30, 3), (7, 1)])
def test_every_clip_has_its_raters_and_every_rater_a_fair_share(raters: int, repeats: int) -> None:
    plan = assign(GROUPS, CHECKS, [f"r{number}" for number in range(raters)], repeats)
    rated = Counter(clip for clips in plan.values() for clip in clips)
    assert all(len(set(clips)) == len(clips) for clips in plan.values())
    assert all(rated[clip] == repeats for group in GROUPS for clip in group)
    assert all(rated[check] == raters for check in CHECKS)
    for group in GROUPS:
        shares = [len(set(clips) & set(group)) for clips in plan.values()]
        assert max(shares) - min(shares) <= 1
    totals = [len(clips) for clips in plan.values()]
    assert max(totals) - min(totals) <= 1


def test_raters_share_clips_with_many_others() -> None:
    """In fixed groups, the effects of raters and clips could not be told apart."""
    plan = assign([[f"clip{number}" for number in range(60)]], [], [f"r{number}" for number in range(20)], 5)
    for rater, clips in plan.items():
        others = {other for other, theirs in plan.items() if other != rater and set(theirs) & set(clips)}
        assert len(others) > 12


def test_the_order_is_random_for_each_rater_and_the_same_again() -> None:
    raters = ["r1", "r2", "r3"]
    plan = assign(GROUPS, CHECKS, raters, 3)
    assert plan == assign([list(reversed(group)) for group in GROUPS], CHECKS[::-1], raters, 3)
    orders = [[clip for clip in plan[rater] if clip not in CHECKS] for rater in raters]
    assert len({tuple(order) for order in orders}) == 3
    changes = sum(one[0] != other[0] for one, other in pairwise(orders[0]))
    assert changes > 10, "labels are mixed"


def test_checks_come_between_the_clips() -> None:
    plan = assign(GROUPS, CHECKS, ["r1"], 1)
    places = sorted(plan["r1"].index(check) for check in CHECKS)
    assert places == [13, 28]


@pytest.mark.parametrize("repeats", [0, 3])
def test_a_clip_cannot_have_more_raters_than_there_are(repeats: int) -> None:
    with pytest.raises(ValueError, match=r"1 … 2"):
        assign(GROUPS, [], ["r1", "r2"], repeats)
