"""The order of checkpoints by distances and by alignment scores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import checkpoint_order
from benchmarks.checkpoint_order import draw, order, recover, spearman, tables


def _spearman(x: list[float], y: list[float]) -> float:
    return float(spearman(torch.tensor(x, dtype=torch.float64), torch.tensor(y, dtype=torch.float64)))


def test_rank_correlation_is_of_order_only() -> None:
    assert _spearman([1, 2, 3, 10], [0.1, 0.2, 0.3, 0.4]) == pytest.approx(1)
    assert _spearman([1, 2, 3], [9, 4, 1]) == pytest.approx(-1)
    assert _spearman([1, 2, 2, 3], [1, 2, 2, 3]) == pytest.approx(1)
    assert _spearman([1, 1, 1], [1, 2, 3]) == 0


def test_rank_correlation_of_rows_is_that_of_each_row() -> None:
    rows = spearman(torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]), torch.tensor([1.0, 5.0, 6.0]))
    assert rows.tolist() == pytest.approx([1, -1])


@pytest.mark.slow
def test_checkpoints_of_a_run_are_measured_once_and_ordered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_order, "CHECKPOINTS", 3)
    monkeypatch.setattr(checkpoint_order, "REFERENCE", 4)
    monkeypatch.setattr(checkpoint_order, "RESAMPLES", 5)
    recover(tmp_path, 3)
    report = order(tmp_path, 4, 2)
    assert report["steps"] == [1, 2, 3]
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "order").iterdir()}
    assert order(tmp_path, 4, 2)["correlations"] == report["correlations"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "order").iterdir()} == written
    for found in report["correlations"].values():
        assert all(-1 <= each["low"] <= each["high"] <= 1 for each in found.values())
    assert "log-mel statistics" in tables(report)
    draw(report, tmp_path / "order.png")
    assert (tmp_path / "order.png").stat().st_size > 0


def test_a_run_with_too_few_checkpoints_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0 checkpoints; a rank correlation needs at least 3"):
        order(tmp_path, 4, 2)
