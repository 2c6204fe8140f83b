"""The ablations with the smallest sizes: trained, measured, resumed and shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import ablations
from benchmarks.ablation_measures import Sampling, measured
from benchmarks.ablation_report import FIRST, ROWS, results, spearman, tables
from benchmarks.ablations import ABLATIONS, Sizes, configuration
from model.training.checkpoints import checkpoints

SMALL = Sizes(steps=6, clips=4, sampler_clips=2, ddpm_steps=10, loss_clips=16)


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
    ablations.run(tmp_path, SMALL)
    found = results(tmp_path)
    assert list(found) == names
    assert all(result["step"] == 6 for result in found.values())
    assert len(found[FIRST]["losses"]["gap_audio"]) == 16
    assert set(found["audio-only"]["losses"]) == {"audio"}
    assert set(found["audio-only"]["distances"]) == {"log_mel", "sound_events"}
    shown = tables(tmp_path)
    assert all(label in shown for label in [*(ROWS[name] for name in names), "ddpm, 10 steps", "dpm_solver, 20 steps"])

    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    ablations.run(tmp_path, SMALL)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")} == written


def test_one_configuration_is_measured_from_its_checkpoint(tmp_path: Path) -> None:
    audio = next(ablation for ablation in ABLATIONS if ablation.name == "audio-only")
    config = configuration(audio, 1)
    ablations.train(config, tmp_path)
    (checkpoint,) = checkpoints(tmp_path / "checkpoints")
    measured(config, checkpoint, tmp_path / "result.json", Sampling("dpmpp_2m", 2, 2), 16)
    before = (tmp_path / "result.json").read_bytes()
    measured(config, checkpoint, tmp_path / "result.json", Sampling("dpmpp_2m", 2, 2), 16)
    assert (tmp_path / "result.json").read_bytes() == before


def test_rank_correlation_is_of_order_only() -> None:
    assert spearman([1, 2, 3, 10], [0.1, 0.2, 0.3, 0.4]) == pytest.approx(1)
    assert spearman([1, 2, 3], [9, 4, 1]) == pytest.approx(-1)
    assert spearman([1, 2, 2, 3], [1, 2, 2, 3]) == pytest.approx(1)
    assert spearman([1, 1, 1], [1, 2, 3]) == 0
