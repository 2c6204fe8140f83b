"""A sample of the corpus at each run; all of it by `python -m tests.hostile`."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from service.settings import Settings
from tests.conftest import RunningApi
from tests.hostile.__main__ import SEED
from tests.hostile.case import ACCEPTED, Case
from tests.hostile.corpus import NAMES, build
from tests.hostile.damage import flipped
from tests.hostile.gauntlet import Gauntlet, figures
from tests.hostile.range import generous, leftovers
from tests.hostile.watch import Canary, Silence

pytestmark = pytest.mark.slow

SAMPLE = 4
"""Inputs of each family. The costly bombs are for the whole run."""


def sample(cases: list[Case]) -> list[Case]:
    families: dict[str, list[Case]] = {}
    for case in cases:
        families.setdefault(case.family, []).append(case)
    chance = random.Random(SEED)
    return [case for name, each in families.items() if name != "bomb" for case in chance.sample(each, SAMPLE)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def canary(folder: Path) -> Canary:
    return Canary(folder)


@pytest.fixture(scope="module")
def cases(folder: Path, canary: Canary) -> list[Case]:
    (folder / "sources").mkdir()
    return build(folder / "sources", SEED, canary.path, 9)


def test_each_input_gets_its_answer_and_nothing_stays(
    run_api: Callable[[Settings], RunningApi], redis_url: str, folder: Path, canary: Canary, cases: list[Case]
) -> None:
    settings = generous(folder / "data", redis_url)
    (folder / "scratch").mkdir()
    with Gauntlet(run_api(settings), settings, folder / "scratch") as gauntlet, canary:
        outcomes = gauntlet.run(sample(cases))
        opened = canary.opened()
    print(figures(outcomes))

    assert [f"{each.case}: {each.wrong}" for each in outcomes if each.wrong] == []
    assert gauntlet.faults.seen == []
    assert not opened
    assert leftovers(settings, folder / "scratch") == []
    assert {each.status for each in outcomes} >= {202, 415, 422}
    assert any(each.end == "completed" for each in outcomes)


def test_the_corpus_is_as_large_and_as_varied_as_promised(cases: list[Case]) -> None:
    assert len(cases) >= 400
    assert len({str(case) for case in cases}) == len(cases)
    assert len({case.data for case in cases}) >= 400
    assert {name for case in cases if case.family == "name" for name in [case.filename]} == set(NAMES)
    assert sum(case.answers == {ACCEPTED} for case in cases) >= 50


def test_the_same_seed_makes_the_same_damage() -> None:
    def flips(seed: int) -> list[bytes]:
        return [case.data for case in flipped("gif", bytes(10_000), random.Random(seed))]

    assert flips(SEED) == flips(SEED) != flips(SEED + 1)


def test_the_sockets_and_files_watched_do_speak_up(tmp_path: Path) -> None:
    """Or silence would prove nothing."""
    canary = Canary(tmp_path)
    canary.fill(b"x")
    with canary, Silence() as silence:
        assert not canary.opened()
        assert not silence.called()
        canary.path.read_bytes()
        socket.create_connection(("127.0.0.1", silence.port)).close()
        assert canary.opened()
        assert silence.called()
