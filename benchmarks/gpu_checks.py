"""Parts of benchmarks.gpu: whether the results are right on the device."""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from benchmarks.gpu_run import Run

TESTS = Path(__file__).parents[1] / "tests"
GOLDEN = "DUET_GOLDEN_DIR"
"""Variable that names the folder of the reference's recorded numbers; Duet's own are always checked."""


def golden(run: Run) -> Iterator[dict[str, Any]]:
    """`python -m model.verify` on the device. Raises AssertionError if a check misses its tolerance."""
    from model.verify.__main__ import main

    folders = [TESTS / "data" / "own_golden", *(Path(os.environ[name]) for name in (GOLDEN,) if name in os.environ)]
    wrong: list[str] = []
    for folder in folders:
        if run.preset == "tiny" and folder.parent != TESTS / "data":
            continue
        with redirect_stdout(io.StringIO()) as output:
            status = main([str(folder), "--json", "--device", run.device])
        checks = json.loads(output.getvalue())["checks"] if status < 2 else []
        wrong += [check["case"] for check in checks if not check["passed"] and not check["informative"]]
        yield {folder.name: {"status": status, "checks": len(checks), "failed": wrong}}
    if wrong:
        raise AssertionError(f"beyond tolerance: {', '.join(wrong)}")


def tests(run: Run) -> Iterator[dict[str, Any]]:
    """`pytest -m gpu tests/gpu`. Raises AssertionError if a test fails."""
    import pytest

    if not run.on_gpu:
        yield {"skipped": "they need a GPU"}
        return
    outcomes = _Outcomes()
    status = pytest.main(["-q", "-m", "gpu", "-p", "no:cacheprovider", str(TESTS / "gpu")], plugins=[outcomes])
    yield {"status": int(status), **outcomes.counts, "failures": outcomes.failures}
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise AssertionError(f"pytest ended with status {status!r}")


class _Outcomes:
    """A pytest plugin that counts outcomes and keeps the end of each failure's text."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.failures: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] += 1
        if report.failed:
            self.failures[report.nodeid] = report.longreprtext[-1500:]
