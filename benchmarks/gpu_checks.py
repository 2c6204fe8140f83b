"""Parts of benchmarks.gpu: whether the results are right on the device."""

from __future__ import annotations

import io
import json
import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from benchmarks.gpu_run import Run

TESTS = Path(__file__).parents[1] / "tests"
REPORT_SECONDS = 1.0
"""Between two reports of a part that runs for long."""
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
        found: dict[str, Any] = {"status": 0, "checks": 0, "failed": []}
        for pattern in _cases(folder):
            with redirect_stdout(io.StringIO()) as output:
                status = main([str(folder), "--json", "--device", run.device, "--case", pattern])
            checks = json.loads(output.getvalue())["checks"] if status < 2 else []
            found["status"], found["checks"] = max(found["status"], status), found["checks"] + len(checks)
            found["failed"] += [f"{folder.name}: {pattern}"] if status >= 2 else []
            found["failed"] += [check["case"] for check in checks if not check["passed"] and not check["informative"]]
            yield {folder.name: found}
        wrong += found["failed"]
    if wrong:
        raise AssertionError(f"beyond tolerance: {', '.join(wrong)}")


def _cases(folder: Path) -> list[str]:
    """Patterns for the cases of one file after the other, small files first."""

    def size(file: Path) -> int:
        tensors = file.with_suffix(".safetensors")
        return tensors.stat().st_size if tensors.exists() else 0

    return [f"{file.stem}*" for file in sorted(folder.glob("*.json"), key=size)] or ["*"]


def tests(run: Run) -> Iterator[dict[str, Any]]:
    """`pytest -m gpu tests/gpu`. Raises AssertionError if a test fails, and what pytest itself raises."""
    import pytest

    if not run.on_gpu:
        yield {"skipped": "they need a GPU"}
        return
    outcomes = _Outcomes()
    ended: list[int | BaseException] = []
    command = ["-q", "-m", "gpu", "-p", "no:cacheprovider", str(TESTS / "gpu")]

    def test() -> None:
        try:
            ended.append(pytest.main(command, plugins=[outcomes]))
        except BaseException as error:  # raised again below
            ended.append(error)

    # Signals belong to the main thread. Here it reports, so that a run that is stopped leaves what it has found.
    thread = threading.Thread(target=test, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(REPORT_SECONDS)
        yield outcomes.found()
    (status,) = ended
    if isinstance(status, BaseException):
        raise status
    yield {"status": int(status)}
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise AssertionError(f"pytest ended with status {status!r}")


class _Outcomes:
    """A pytest plugin that counts outcomes, and keeps the seconds of each test and the end of each failure's text."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.failures: dict[str, str] = {}
        self.seconds: dict[str, float] = {}

    def found(self) -> dict[str, Any]:
        """Everything so far."""
        return {**self.counts, "failures": dict(self.failures), "test_s": dict(self.seconds)}

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = round(self.seconds.get(report.nodeid, 0.0) + report.duration, 1)
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] += 1
        if report.failed:
            self.failures[report.nodeid] = report.longreprtext[-1500:]
