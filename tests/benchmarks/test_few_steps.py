"""The report on few steps: rows are added to it, and docs/few-steps.md shows what it holds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import few_steps
from benchmarks.few_steps import added, evaluated, main
from benchmarks.few_steps_report import PARTS, aims, draw, measured, tables
from model.checkpoint.manifest import BUILTIN, Manifest, find_models
from tests.tiny_model import add_tiny_model

REPORT = json.loads(Path("docs/figures/few_steps.json").read_text(encoding="utf-8"))


def report(rows: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """Rows of one day, `date`."""
    dates = dict.fromkeys(rows, changed.pop("date", "2026-11-27"))
    given = {"processor": "", "model": "demo", "weights": "abc", "clips": 256, "seed": 0, "dates": dates}
    return {**given, **changed, "rows": rows}


@pytest.fixture
def shipped() -> Manifest:
    """The model that ships, if the report is of its weights: a model that was just published has no report yet."""
    manifest = find_models()["demo"]
    if not measured(REPORT, manifest):
        pytest.skip("the report is of another model than the one that ships")
    return manifest


def test_the_page_has_the_tables_of_the_report_and_of_the_manifest() -> None:
    for name, content in tables(REPORT, find_models()["demo"]).items():
        assert PARTS.written(name) == content, f"run python -m benchmarks.few_steps_report: {name} differs"


def test_the_page_keeps_the_solvers_of_a_report_of_another_model() -> None:
    manifest = find_models()["demo"]
    assert "solvers" in tables({**REPORT, "weights": manifest.network_hash("base")}, manifest)
    assert set(tables({**REPORT, "weights": "abc"}, manifest)) == {"generate", "v2a and a2v", "aims"}


def test_the_report_has_the_solvers_of_the_manifest(shipped: Manifest) -> None:
    solvers = shipped.tuned.base if shipped.tuned else {}
    rows = {f"{name.replace('generate', 'joint')} tuned {steps}" for name, own in solvers.items() for steps in own}
    assert rows - set(REPORT["rows"]) == set()


def test_the_report_says_what_was_measured() -> None:
    assert (REPORT["model"], REPORT["clips"], REPORT["seed"]) == ("demo", 256, 0)
    assert re.fullmatch("[0-9a-f]{64}", REPORT["weights"])


def test_rows_are_added_and_replaced_each_with_its_date() -> None:
    both = added(report({"a": 1, "b": 2}), report({"b": 3, "c": 4}, date="2026-11-28"))
    dates = {"a": "2026-11-27", "b": "2026-11-28", "c": "2026-11-28"}
    assert both == report({"a": 1, "b": 3, "c": 4}, dates=dates)
    student = report({"b": 2}, model="student", weights="def")
    assert added(report({"a": 1}), student, "distilled") == report({"a": 1, "b": 2})


def test_an_evaluation_is_refused_without_a_report_to_add_it_to(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["few_steps", "--folder", "none", "--evaluation", "evaluation.json"])
    with pytest.raises(SystemExit):
        main()
    assert "needs --json" in capsys.readouterr().err


def test_a_distilled_model_is_compared_with_the_clips_of_its_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(few_steps, "TEACHER", 2)
    model = add_tiny_model(tmp_path / "models") / "tiny"
    report = tmp_path / "report.json"

    def measure(folder: str, steps: int, *more: str) -> dict[str, Any]:
        own = ["--folder", str(tmp_path / folder), "--model", str(model), "--clips", "4", "--json", str(report)]
        monkeypatch.setattr("sys.argv", ["few_steps", *own, "--rows", f"joint dpmpp_2m {steps}", *more])
        main()
        found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        return found["rows"]

    student = ("--label", "distilled", "--teacher", str(tmp_path / "teacher"))
    with pytest.raises(FileNotFoundError, match=r"measure a row of 'joint' of the teacher first"):
        measure("student", 1, *student)
    measure("teacher", 2)
    rows = measure("student", 2, *student)
    assert list(rows) == ["joint dpmpp_2m 2", "joint distilled 2"]
    assert rows["joint distilled 2"]["distance"]["value"] == 0
    assert not (tmp_path / "student" / "joint-teacher.pt").exists()


@pytest.mark.parametrize(
    ("changed", "label"),
    [({"clips": 96}, None), ({"seed": 1}, "distilled"), ({"model": "student"}, None), ({"weights": "def"}, None)],
)
def test_rows_that_cannot_be_compared_are_refused(changed: dict[str, Any], label: str | None) -> None:
    with pytest.raises(ValueError, match=f"the report has {next(iter(changed))}"):
        added(report({}), report({}, **changed), label)


def test_rows_are_not_added_to_a_report_that_does_not_say_which_weights_it_is_of() -> None:
    known = report({})
    del known["weights"]
    with pytest.raises(ValueError, match="the report has weights None"):
        added(known, report({}))


def test_an_evaluation_of_other_weights_is_refused() -> None:
    evaluation = json.loads((BUILTIN / "demo" / "evaluation.json").read_text(encoding="utf-8"))
    with pytest.raises(ValueError, match="of other weights than those of demo"):
        evaluated({**evaluation, "weights": "abc"}, find_models()["demo"])


def test_the_default_of_the_report_is_that_of_the_evaluation(shipped: Manifest) -> None:
    """It is measured on the same clips: rows of the evaluation may stand in the report."""
    known = evaluated(json.loads((BUILTIN / "demo" / "evaluation.json").read_text(encoding="utf-8")), shipped)
    assert set(known["rows"]) <= set(REPORT["rows"])
    for row, measures in known["rows"].items():
        for name, score in measures.items():
            assert REPORT["rows"][row][name] == pytest.approx(score, abs=1e-5)


def test_an_aim_is_missed_below_the_interval_of_the_default() -> None:
    def row(value: float) -> dict[str, Any]:
        return {
            name: {"value": value, "low": value - 0.1, "high": value + 0.1}
            for name in ("onset_f1", "pitch_x", "lag", "av_align")
        }

    near = aims(report({"joint dpmpp_2m 20": row(0.8), "joint tuned 6": row(0.7001), "joint unipc 6": row(0.8)}))
    assert near.splitlines()[-1].startswith("| `generate` | 0.700 in 0.700 … 0.900: yes |")
    assert "**no**" in aims(report({"joint dpmpp_2m 20": row(0.8), "joint tuned 6": row(0.69)}))


def test_the_figure_is_drawn(tmp_path: Path) -> None:
    draw(REPORT, tmp_path / "few_steps.png")
    assert (tmp_path / "few_steps.png").stat().st_size > 0
