"""Output of a benchmark: JSON on standard output for programs, a table on standard error for people."""

from __future__ import annotations

import json
import sys
from typing import Any


def show(report: dict[str, Any]) -> None:
    """Print `report`; its `figures` have a `value` or a `median`, a `target`, and whether it is `met`."""
    print(json.dumps(report, indent=2))
    rows = ["| figure | seen | aim | met |", "|---|---|---|---|"]
    for name, figure in report["figures"].items():
        if isinstance(figure, dict):
            seen = figure.get("value", figure.get("median"))
            rows.append(f"| {name} | {seen} | {figure['target']} | {'yes' if figure['met'] else 'no'} |")
    print("\n".join(rows), file=sys.stderr)
