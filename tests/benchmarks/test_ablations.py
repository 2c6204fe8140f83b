"""The ablations with the smallest sizes: trained, measured, resumed and shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import ablations
from benchmarks.ablation_measures import Sampling, measured
from benchmarks.ablation_report import FIRST, ROWS, draw, summary, tables
from benchmarks.ablations import ABLATIONS, Sizes, configuration
from model.training.checkpoints import checkpoints

SMALL = Sizes(steps=6, clips=4, loss_clips=16)


def test_configurations_are_those_of_the_paper() -> None:
    built = {ablation.name: configuration(ablation, 100).model.base for ablation in ABLATIONS}
    assert set(built) == set(ROWS)
    assert [built[f"windows-{name}"].windows for name in ("1-1-1", "4-4-4", "8-8-8", "1-4-8")] == [
        (1, 1, 1),
        (4, 4, 4),
        (8, 8, 8),
        (1, 4, 8),
    ]
    assert [name for name, base in built.items() if not base.window_shift] == ["no-shift"]
    assert built["audio-only"].modalities == ("audio",)
    assert built["video-only"].modalities == ("video",)
    assert [name for name, base in built.items() if base.middle_coupled] == [FIRST, "no-shift", "another-seed"]


@pytest.mark.slow
def test_configurations_are_trained_measured_and_shown_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [FIRST, "no-shift", "audio-only"]
    monkeypatch.setattr(ablations, "ABLATIONS", tuple(each for each in ABLATIONS if each.name in names))
    ablations.run(tmp_path, SMALL, names, 6)
    report = summary(tmp_path, 6)
    found = report["configurations"]
    assert set(found) == set(names)
    assert set(found[FIRST]["gaps"]) == {"video", "audio"}
    assert set(found["audio-only"]["losses"]) == {"audio"}
    assert set(found["audio-only"]["distances"]) == {"log_mel", "sound_events"}
    assert set(found["audio-only"]["changes"]) == {"audio"}
    shown = tables(report)
    assert all(ROWS[name] in shown for name in names)
    draw(report, tmp_path / "ablations.png")
    assert (tmp_path / "ablations.png").stat().st_size > 0

    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    ablations.run(tmp_path, SMALL, names, 6)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")} == written
    ablations.run(tmp_path, Sizes(steps=7, clips=4, loss_clips=16), ["audio-only"], 7)
    assert list(summary(tmp_path, 7)["configurations"]) == ["audio-only"]
    earlier = summary(tmp_path, 5)
    assert earlier["configurations"] == {}
    ablations.run(tmp_path, Sizes(steps=7, clips=4, loss_clips=16), [], 5)
    assert not summary(tmp_path, 5)["configurations"], "that checkpoint is of the run of 6 steps"


def test_one_configuration_is_measured_from_its_checkpoint(tmp_path: Path) -> None:
    audio = next(ablation for ablation in ABLATIONS if ablation.name == "audio-only")
    config = configuration(audio, 1)
    ablations.train(config, tmp_path)
    (checkpoint,) = checkpoints(tmp_path / "checkpoints")
    measured(config, checkpoint, tmp_path / "result.json", Sampling("dpmpp_2m", 2, 2), 16)
    before = (tmp_path / "result.json").read_bytes()
    measured(config, checkpoint, tmp_path / "result.json", Sampling("dpmpp_2m", 2, 2), 16)
    assert (tmp_path / "result.json").read_bytes() == before
