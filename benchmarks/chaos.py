"""`make chaos`: 500 jobs while workers, API and Redis are killed and the object store goes away.

    python -m benchmarks.chaos [--seed N] [--jobs N] [--seconds N] [--output FILE]

Prints a table, writes it to a file, and exits with 1 unless every accepted job has exactly one end.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from tests.chaos.run import Chaos, Plan


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=330, help="within which all is submitted and broken")
    parser.add_argument("--output", type=Path, default=Path("build/chaos.md"))
    options = parser.parse_args()
    plan = Plan(
        seed=options.seed,
        jobs=options.jobs,
        seconds=options.seconds,
        worker_kills=40,
        api_kills=10,
        redis_kills=5,
        outages=5,
        poison=3,
        raising=3,
        lease=20,
    )
    with tempfile.TemporaryDirectory(prefix="duet-chaos-") as folder:
        outcome = Chaos(plan, Path(folder)).run()
    heading = f"{datetime.now(UTC):%Y-%m-%d}, seed {plan.seed}, lease {plan.lease:g} s, {processor()}"
    report = f"{heading}\n\n{outcome.table()}\n"
    print(f"\n{report}")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(report)
    for problem in outcome.problems:
        print(f"PROBLEM: {problem}", file=sys.stderr)
    kept = (
        not outcome.problems
        and outcome.accepted == plan.jobs
        and (outcome.lost, outcome.duplicates, outcome.stuck, outcome.incomplete) == (0, 0, 0, 0)
        and outcome.percentile(99) <= 30
        and outcome.most_runs_alone_of_poison <= 3
    )
    return 0 if kept else 1


def processor() -> str:
    """Its name, as Linux knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} × {names[0]}" if names else platform.machine()


if __name__ == "__main__":
    sys.exit(main())
