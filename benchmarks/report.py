"""Output of a benchmark: JSON on standard output for programs, a table on standard error for people."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any


def show(report: dict[str, Any]) -> None:
    """Print `report`; its `figures` have a `value` or a `median`, a `target`, and whether it is `met`."""
    print(json.dumps(report, indent=2))
    rows = ["| figure | result | aim | met |", "|---|---|---|---|"]
    for name, found in report["figures"].items():
        if isinstance(found, dict):
            value = found.get("value", found.get("median"))
            rows.append(f"| {name} | {value} | {found['target']} | {'yes' if found['met'] else 'no'} |")
    print("\n".join(rows), file=sys.stderr)


def at_most(target: float, value: float, digits: int = 3) -> dict[str, Any]:
    """A figure that must not exceed `target`, for `show`."""
    return {"value": round(value, digits), "target": f"at most {target:g}", "met": value <= target}


def at_least(target: float, value: float, digits: int = 3) -> dict[str, Any]:
    """A figure that must reach `target`, for `show`."""
    return {"value": round(value, digits), "target": f"at least {target:g}", "met": value >= target}


def figure_path(description: str | None) -> Path | None:
    """Parse the command line of a benchmark whose only option is `--figure FILE`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", type=Path, help="also draw the results into this file")
    path: Path | None = parser.parse_args().figure
    return path


def surroundings() -> dict[str, Any]:
    """Date, machine and versions of a measurement."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": processor(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "system": platform.platform(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("duet-av", "torch", "av")},
        },
    }


def processor() -> str:
    """Model name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
