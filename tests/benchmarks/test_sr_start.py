"""benchmarks.sr_start measures enlarged frames against true ones, and draws the errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import sr_start
from model.runtime.pipeline import Pipeline
from tests.model.runtime.test_neighbours import MANIFEST


def test_errors_are_measured_by_start_and_evaluations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sr_start, "STARTS", (999.0, 300.0))
    monkeypatch.setattr(sr_start, "EVALUATIONS", (1, 2))
    with torch.inference_mode():
        found = sr_start.measure(Pipeline.load(MANIFEST, "cpu", "float32"), 2)
    assert set(found["by_start"]) == {"999", "300"}
    assert all(error > 0 for row in found["by_start"].values() for error in row.values())
    assert found["enlarged_only"] > 0
    sr_start.draw(found, tmp_path / "errors.png")
    assert (tmp_path / "errors.png").stat().st_size > 1000
