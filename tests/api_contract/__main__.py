"""`python -m tests.api_contract`: every route of the API, as it describes itself, under requests made by chance.

Schemathesis makes the requests, valid and invalid ones, one by one and in sequences, and holds every answer against the
description. Where a machine is too busy to make MINIMUM of them in the time given, it goes on with the next seed. Ends
with 1 if a check failed or anything else went wrong, or if there were fewer than MINIMUM in the end. OWN_ERROR alone is
no failure of the API: it is printed and counted.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.api_contract.stack import COMPLETED_JOB, KEY, STUDY, Stack, running

MINIMUM = 2000
OWN_ERROR = "ValueError: Unsupported type: 'Binary'"
"""What Schemathesis 4.32 raises when it judges some mutated forms of its own making, before it sends them. That ends
the random requests to one route for this seed; the systematic ones before and the sequences after it go on."""

CONFIG = Path(__file__).with_name("schemathesis.toml")


def main() -> int:
    """Run it; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.api_contract", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the same seed, the same requests")
    parser.add_argument("--seconds", type=int, default=100, help="how long each seed is followed")
    parser.add_argument("--limit", type=int, default=600, help="seconds after which no other seed is begun")
    options = parser.parse_args()
    began = time.monotonic()
    made = failed = broken_off = 0
    with running() as stack:
        seed = options.seed
        while not failed and made < MINIMUM and time.monotonic() - began < options.limit:
            status, output, report = _requests(stack, seed, options.seconds)
            cases = report["test_cases"]
            made += cases["generated"]
            own = status != 0 and _is_own_error(output)
            failed += cases["with_failures"] + cases["errored"] + int(status != 0 and not own)
            broken_off += own
            seed += 1
    took = time.monotonic() - began
    print(f"{made} requests to {report['operations']['tested']} routes in {took:.0f} s, failures: {failed}")
    if made < MINIMUM:
        print(f"That is too few: {MINIMUM} are wanted.")
    if broken_off:
        print(f"Schemathesis broke off making requests to one route {broken_off} times: {OWN_ERROR}")
    return int(failed > 0 or made < MINIMUM)


def _is_own_error(output: str) -> bool:
    """Whether all that Schemathesis lists as an error is OWN_ERROR."""
    listed = re.search(r"^Errors:\n((?:  .*\n)+)", output, re.MULTILINE)
    counts = re.findall(r": (\d+)$", listed[1], re.MULTILINE) if listed else []
    return "FAILURES" not in output and sum(map(int, counts)) == output.count(OWN_ERROR) > 0


def _requests(stack: Stack, seed: int, seconds: int) -> tuple[int, str, dict[str, Any]]:
    """Follow one seed; return the exit status of Schemathesis, what it printed, and its report."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run"]
        command += [f"{stack.url}/openapi.json", "--header", f"Authorization: Bearer {KEY}", "--checks", "all"]
        command += ["--seed", str(seed), "--max-time", str(seconds), "--report-json-path", str(report), "--no-color"]
        environment = {**os.environ, COMPLETED_JOB: stack.completed_job, "PYTHONPATH": str(CONFIG.parents[2])}
        environment[STUDY] = " ".join((stack.rater.token, *stack.rater.clips))
        # In the folder, because what it keeps for itself it keeps where it runs.
        done = subprocess.run(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        print(done.stdout, flush=True)
        return done.returncode, done.stdout, json.loads(report.read_text())


if __name__ == "__main__":
    sys.exit(main())
