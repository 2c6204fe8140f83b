"""benchmarks.gpu on a CPU with a tiny model: every part runs, whatever fails is recorded, and hangs end."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_checks, gpu_table, norms_cpu
from benchmarks.gpu_run import PARTS, SECONDS, Part, Run, limit, measure
from tests.waiting import until

ROOT = Path(__file__).parents[2]


def measured(tmp_path: Path, names: Sequence[str]) -> dict[str, Any]:
    """The report of a run of these parts; none may have failed."""
    out = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--preset", "tiny", "--out", str(out)]
    done = subprocess.run(
        [*command, "--parts", ",".join(names)], cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(out.read_text())
    assert list(report["parts"]) == list(names)
    assert not {name: found["error"] for name, found in report["parts"].items() if "error" in found}, done.stderr
    return report


IMPORTS = 15.0
"""Seconds that a run takes before its first part."""
H200 = {"device": 0.6, "base": 55.1, "sr": 17.5, "kernels": 6.1, "stack": 51.7}
"""Seconds that parts took, as far as they were measured."""


def limits(parts: dict[str, Part], left: float, taken: dict[str, float]) -> dict[str, float]:
    """The time limits of a run in which parts take so many seconds, or all that they may."""
    found: dict[str, float] = {}
    for number, name in enumerate(parts):
        found[name] = limit(list(parts.values())[number:], left)
        left -= min(found[name], taken.get(name, found[name]))
    return found


@pytest.mark.parametrize("taken", [{}, H200])
def test_every_part_has_enough_time_in_a_run_of_the_default_length(taken: dict[str, float]) -> None:
    found = limits(PARTS, SECONDS - IMPORTS, taken)
    for name, part in PARTS.items():
        assert found[name] >= max(part.least, taken.get(name, 0.0)), name
    assert min(part.least for part in PARTS.values()) >= 7
    assert all(PARTS[name].least >= seconds for name, seconds in H200.items() if name not in ("base", "sr"))
    assert max(found.values()) < SECONDS / 3


def test_time_that_a_part_leaves_goes_to_the_next_ones() -> None:
    parts = {"a": Part("", 60, 10), "b": Part("", 60, 20), "c": Part("", 60, 30)}
    assert limits(parts, 60, {}) == {"a": 10, "b": 20, "c": 30}
    assert limits(parts, 70, {"a": 5}) == {"a": 20, "b": 35, "c": 30}
    assert limits(parts, 1000, {}) == {"a": 60, "b": 60, "c": 60}
    assert limits(parts, 30, {}) == {"a": 5, "b": 10, "c": 15}


@dataclass(frozen=True)
class Norm:
    name: str
    shape: tuple[int, ...]
    skip: int = 0
    modulated: bool = False
    inner: int = 1


def test_norms_on_a_cpu_agree_with_the_earlier_ones_that_they_are_timed_against() -> None:
    cases = [
        Norm("one sample", (1, 50, 32), modulated=True),
        Norm("samples", (3, 50, 32), skip=32, modulated=True),
        Norm("over frames", (2, 4, 9, 64), inner=9),
    ]
    report = norms_cpu.compare(cases, 1)
    assert [found["case"] for found in report["results"]] == [case.name for case in cases]
    for found in report["results"]:
        assert found["difference"] < 1e-6
        assert set(found["forward_speedup"]) == set(found["training_speedup"]) == {"separate", "channels_first"}


@pytest.mark.timed
def test_every_part_but_the_stack_runs_on_a_cpu(tmp_path: Path) -> None:
    report = measured(tmp_path, [name for name in PARTS if name != "stack"])
    parts = report["parts"]
    assert parts["golden"]["own_golden"] == {"status": 0, "checks": 7, "failed": []}
    assert set(parts["base"]["rows"]) == {f"{kind} {size}" for kind in ("eager", "worker", "plain") for size in (1, 2)}
    assert parts["training"]["steps"] >= 1
    assert parts["training"]["captions"] == "wordllama"
    assert set(parts["tuning"]["rounds"]) == {"generate", "v2a pigdm", "sr"}
    shown = gpu_table.tables(report)
    for title in ("base network", "super-resolution", "aten::", "warm up s", "first step s", "teacher s"):
        assert title in shown


@pytest.mark.slow
def test_the_stack_is_measured_on_a_cpu(tmp_path: Path) -> None:
    report = measured(tmp_path, ["stack"])
    stack = report["parts"]["stack"]
    assert stack["finished"] == stack["at_once"] == 2
    assert "clip seconds per s" in gpu_table.tables(report)


OUTCOMES = """
import json, sys
from pathlib import Path
from benchmarks import gpu_checks
from benchmarks.gpu_run import Run
gpu_checks.TESTS = Path(sys.argv[1])
found = {}
try:
    for piece in gpu_checks.tests(Run("cuda", "tiny", gpu_checks.TESTS)):
        found |= piece
except AssertionError as error:
    found["error"] = str(error)
Path(sys.argv[1], "found.json").write_text(json.dumps(found))
"""


def test_the_outcomes_of_gpu_tests_are_counted(tmp_path: Path) -> None:
    (tmp_path / "gpu").mkdir()
    (tmp_path / "gpu" / "test_some.py").write_text(
        "import pytest\n\npytestmark = pytest.mark.gpu\n\n\ndef test_one():\n    pass\n\n\n"
        "def test_other():\n    assert False, 'it broke'\n"
    )
    subprocess.run([sys.executable, "-c", OUTCOMES, str(tmp_path)], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["passed"], found["failed"], found["status"]) == (1, 1, 1)
    assert [name.rpartition("::")[2] for name in found["test_s"]] == ["test_one", "test_other"]
    ((name, text),) = found["failures"].items()
    assert name.endswith("test_other")
    assert "it broke" in text
    assert "status" in found["error"]


def test_an_error_of_pytest_itself_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> int:
        raise RuntimeError("no tests can be run")

    monkeypatch.setattr(pytest, "main", broken)
    with pytest.raises(RuntimeError, match="no tests can be run"):
        list(gpu_checks.tests(Run("cuda", "tiny", tmp_path)))


def sound(run: Run) -> Iterator[dict[str, Any]]:
    yield {"seconds": run.seconds}


def fails(_: Run) -> Iterator[dict[str, Any]]:
    yield {"before": 1}
    raise ValueError("it broke")


def hangs(_: Run) -> Iterator[dict[str, Any]]:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield {"child": child.pid}
    time.sleep(600)


@pytest.mark.timed
def test_failures_and_hangs_are_recorded_and_the_next_part_runs(tmp_path: Path) -> None:
    parts = {"fails": Part(__name__, 100), "hangs": Part(__name__, 15), "sound": Part(__name__, 100)}
    out = tmp_path / "gpu.json"
    measure(Run("cpu", "tiny", tmp_path), parts, 300, out)
    found = json.loads(out.read_text())["parts"]
    assert found["fails"].pop("took_s") > 0
    assert found["fails"] == {"before": 1, "error": "ValueError: it broke"}
    assert found["hangs"]["error"] == "stopped at its time limit of 15 s"
    assert found["sound"]["seconds"] == 100
    until(lambda: _ended(found["hangs"]["child"]), "what the part started has ended")


def _ended(pid: int) -> bool:
    """Whether the process is gone, or waits for its end to be noticed: that of a container may notice none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_no_part_starts_without_time(tmp_path: Path) -> None:
    report = measure(Run("cpu", "tiny", tmp_path), {"hangs": Part(__name__, 100)}, 0, tmp_path / "gpu.json")
    assert report["parts"] == {"hangs": {"error": "no time left", "took_s": 0.0}}


def test_the_page_shows_the_committed_measurement() -> None:
    expected = gpu_table.NONE
    if gpu_table.FILE.exists():
        expected = gpu_table.tables(json.loads(gpu_table.FILE.read_text(encoding="utf-8")))
    assert gpu_table.written() == expected, "run: python -m benchmarks.gpu --table docs/figures/gpu.json"
