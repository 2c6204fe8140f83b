"""How many cores count: those this process may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from model.runtime import threads
from model.runtime.engine import Engine


@pytest.mark.parametrize(("quota", "cores"), [("max 100000", 8), ("200000 100000", 2), ("50000 100000", 1)])
def test_a_container_s_share_counts_not_the_machine_s_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int
) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(quota + "\n")
    monkeypatch.setattr(threads, "_QUOTA", file)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert threads.available_cores() == cores


def test_without_control_groups_it_is_where_the_process_may_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "_QUOTA", tmp_path / "none")
    monkeypatch.setattr(threads, "_QUOTA_V1", (tmp_path / "none", tmp_path / "none"))
    assert threads.available_cores() == len(os.sched_getaffinity(0))


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_the_engine_computes_with_the_threads_of_its_maker_though_jobs_take_one() -> None:
    engine = Engine(1)
    engine.start()
    try:
        engine.between_ticks(lambda: None)  # its thread has begun
        with threads.one_thread():
            assert torch.get_num_threads() == 1
            assert engine.between_ticks(torch.get_num_threads) == 3  # the engine has not computed anything before
        assert torch.get_num_threads() == 3
    finally:
        engine.close(RuntimeError("the test is over"))
        engine.join()
