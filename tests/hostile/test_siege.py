"""The API under hostile connections: short attacks here, longer ones by `python -m tests.hostile`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import RedisServer
from tests.hostile.range import generous
from tests.hostile.siege import ATTACKS, besieged, figures

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timed,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads a process' memory from /proc"),
]


def test_hostile_connections_cost_little_memory_and_hold_nobody_up(own_redis: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with besieged(generous(tmp_path / "data", own_redis.url), seconds=0.5) as siege:
        results = [siege.run(attack) for attack in ATTACKS]
    print(figures(results))
    assert [f"{each.attack}: {each.wrong}" for each in results if each.wrong] == []


def test_every_attack_has_a_name_of_its_own() -> None:
    assert len({str(attack) for attack in ATTACKS}) == len(ATTACKS) >= 60
    assert len({attack.family for attack in ATTACKS}) == 5
