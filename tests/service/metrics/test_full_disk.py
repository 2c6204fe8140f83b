"""Metrics files on a disk that is full, or fills up."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

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
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "duet-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount the small disk that this needs")
    (folder / "metrics").mkdir()
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("full", ["before", "later"])
def test_a_process_goes_on_counting_on_a_full_disk(small_disk: Path, full: str) -> None:
    """Without allocated space the kernel would kill it (SIGBUS) at its next write."""
    command = [sys.executable, "-c", _COUNT, str(small_disk), full]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "counted" in done.stdout
