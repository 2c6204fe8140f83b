"""A short run with every fault; `make chaos` does the long one."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.chaos.faults import FAULTS, TITLES
from tests.chaos.outcome import Plan
from tests.chaos.run import Chaos

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")


@pytest.mark.slow
@pytest.mark.timed
def test_every_accepted_job_has_one_end_whatever_fails() -> None:
    counts = dict.fromkeys(FAULTS, 1) | {"worker": 5, "API": 2}
    times = {"refusing_seconds": (1.0, 2.0), "stopped_seconds": 2.0, "unavailable_seconds": 2.0}
    plan = Plan(6, 60, 40, counts, poison=1, raising=1, lease=3, patience=90, **times)  # type: ignore[arg-type]
    # Not in pytest's own folder: its path is too long for the name of a socket.
    with tempfile.TemporaryDirectory(prefix="duet-chaos-") as folder:
        outcome = Chaos(plan, Path(folder)).run()
    print(outcome.table(TITLES))
    assert outcome.violations() == []
    assert outcome.accepted >= plan.jobs
    assert (outcome.completed, outcome.failed_by_design) == (outcome.accepted - 2, 2)
    assert set(outcome.recovery) | set(outcome.skipped) | {"worker"} == set(FAULTS)
