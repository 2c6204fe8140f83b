"""The memory benchmark makes a job as a worker does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from benchmarks import long_memory


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """The benchmark uses one thread."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_a_job_is_made_with_the_workers_own_code(capfd: pytest.CaptureFixture[str]) -> None:
    long_memory._make("generate", long_memory.CONFIG.clip.duration, None, "dpmpp_2m")
    assert "Traceback" not in capfd.readouterr().err
