"""The short run; `make chaos` does the long one."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.chaos.run import Chaos, Plan

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")

PLAN = Plan(
    seed=6,
    jobs=60,
    seconds=30,
    worker_kills=5,
    api_kills=2,
    redis_kills=1,
    outages=1,
    poison=1,
    raising=1,
    lease=3,
    patience=90,
)


@pytest.mark.slow
def test_every_accepted_job_has_one_end_whatever_is_killed() -> None:
    # Not in pytest's own folder: its path is too long for the name of a socket.
    with tempfile.TemporaryDirectory(prefix="duet-chaos-") as folder:
        outcome = Chaos(PLAN, Path(folder)).run()
    print(outcome.table())
    assert outcome.problems == []
    assert outcome.accepted == PLAN.jobs
    assert (outcome.lost, outcome.duplicates, outcome.stuck, outcome.incomplete) == (0, 0, 0, 0)
    assert (outcome.completed, outcome.failed_by_design) == (PLAN.jobs - 2, 2)
    assert outcome.most_runs_alone_of_poison <= 3
    assert outcome.percentile(99) <= 30
