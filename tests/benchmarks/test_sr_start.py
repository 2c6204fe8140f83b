"""benchmarks.sr_start measures enlarged frames against true ones, and draws the measures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import sr_start
from model.runtime.pipeline import Pipeline
from tests.model.runtime.test_neighbours import MANIFEST
from tests.model.tuning.solvers import with_solvers


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.load(with_solvers(MANIFEST), "cpu", "float32")


def test_frames_are_measured_by_start_and_evaluations(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sr_start, "STARTS", (999.0, 300.0))
    monkeypatch.setattr(sr_start, "EVALUATIONS", (1, 2))
    monkeypatch.setattr(sr_start, "FEW", 1)
    monkeypatch.setattr(sr_start, "MANY", 2)
    with torch.inference_mode():
        found = sr_start.measure(pipeline, 2)
    assert set(found["by_start"]) == {"999", "300"}
    assert set(found["tuned"]) == {2, 3, 4}
    assert all(measures["rms"] > 0 for row in found["by_start"].values() for measures in row.values())
    difference, half = found["differences"]["300"]["rms"]
    assert difference == pytest.approx(
        found["by_start"]["300"][1]["rms"] - found["by_start"]["999"][2]["rms"], abs=2e-5
    )
    assert half > 0
    sr_start.draw(found, tmp_path / "errors.png")
    assert (tmp_path / "errors.png").stat().st_size > 1000


def test_blur_loses_detail_and_noise_recovers_none(pipeline: Pipeline) -> None:
    large = sr_start.true_frames(pipeline, 4)
    enlarging = sr_start.Enlarging(pipeline, large)
    noise = 0.2 * torch.randn(large.shape, generator=torch.Generator().manual_seed(1))
    true, blurred, noisy = (enlarging.measure(each) for each in (large, enlarging.interpolated, large + noise))
    for measure in ("detail_energy", "detail_recovered"):
        assert true[measure] == pytest.approx(torch.ones(4))
        assert (blurred[measure] < 0.8).all()
    assert (noisy["detail_energy"] > 1.1).all()
    assert noisy["detail_recovered"] == pytest.approx(torch.ones(4), abs=0.1)
