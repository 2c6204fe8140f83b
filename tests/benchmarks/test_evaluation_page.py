"""The tables in docs/evaluation.md are those of the figures in docs/figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import ablation_report, checkpoint_order, ddpm

DOCS = Path("docs")


@pytest.mark.parametrize(
    ("name", "tables"),
    [
        ("ablations", ablation_report.tables),
        ("ablations-400", ablation_report.tables),
        ("checkpoint_order", checkpoint_order.tables),
        ("ddpm", ddpm.table),
    ],
)
def test_tables_of_the_page_are_those_of_the_figures(name: str, tables: Callable[[dict[str, Any]], str]) -> None:
    page = (DOCS / "evaluation.md").read_text(encoding="utf-8").splitlines()
    shown = tables(json.loads((DOCS / f"figures/{name}.json").read_text(encoding="utf-8")))
    rows = [line for line in shown.splitlines() if line.startswith("|")]
    assert len(rows) > 3
    assert [row for row in rows if row not in page] == []
