"""`make chaos`: hundreds of jobs while everything fails that they depend on.

    python -m benchmarks.chaos [--seed N] [--jobs N] [--seconds N] [--output FILE]

Prints two tables, writes them to a file, and exits with 1 unless every accepted job has exactly one end, every process
works again and the 99th percentile of recovery is at most 30 s. The faults: `tests/chaos/faults.py`.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from tests.chaos.faults import FAULTS, TITLES
from tests.chaos.outcome import Plan
from tests.chaos.run import Chaos

COUNTS = dict.fromkeys(FAULTS, 2) | {"worker": 40, "API": 10, "storage": 5, "Redis": 5, "terminal": 1}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=600)
    parser.add_argument("--seconds", type=float, default=780, help="time over which jobs and faults are spread")
    parser.add_argument("--output", type=Path, default=Path("build/chaos.md"))
    options = parser.parse_args()
    plan = Plan(options.seed, options.jobs, options.seconds, COUNTS, poison=3, raising=3, lease=20)
    with tempfile.TemporaryDirectory(prefix="duet-chaos-") as folder:
        outcome = Chaos(plan, Path(folder), lambda line: print(line, flush=True)).run()
    heading = f"{datetime.now(UTC):%Y-%m-%d}, seed {plan.seed}, lease {plan.lease:g} s, {processor()}"
    report = f"{heading}\n\n{outcome.table(TITLES)}\n"
    print(f"\n{report}")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(report)
    violations = outcome.violations()
    for violation in violations:
        print(f"VIOLATION: {violation}", file=sys.stderr)
    return 1 if violations or outcome.accepted < plan.jobs else 0


def processor() -> str:
    """Number and name of the processors, as Linux gives them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} × {names[0]}" if names else platform.machine()


if __name__ == "__main__":
    sys.exit(main())
