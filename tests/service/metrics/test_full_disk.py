"""Metrics files on a disk that is full or fills up."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.small_disk import NotMounted, small_disk

_COUNT = """
import os, sys
from pathlib import Path
from service.metrics.sharing import share
folder, before = Path(sys.argv[1]), sys.argv[2] == "before"
def fill():
    with open(folder / "filler", "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)): pass
        except OSError: pass
if before: fill()
share(folder / "metrics", 0)
from prometheus_client import CollectorRegistry, Counter
counter = Counter("things", "Things.", ("name",), registry=CollectorRegistry())
if not before:
    counter.labels("first").inc()
    fill()
for number in range(2000): counter.labels(f"a rather long name of thing number {number}").inc()
print("counted")
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    with ExitStack() as stack:
        try:
            stack.enter_context(small_disk(folder, 8 * 2**20))
        except NotMounted as error:
            pytest.skip(str(error))
        (folder / "metrics").mkdir()
        yield folder


@pytest.mark.parametrize("full", ["before", "later"])
def test_a_process_goes_on_counting_on_a_full_disk(disk: Path, full: str) -> None:
    """Without allocated space the kernel would kill it (SIGBUS) at its next write."""
    command = [sys.executable, "-c", _COUNT, str(disk), full]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "counted" in done.stdout
