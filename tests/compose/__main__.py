"""The stack of docker-compose.yml in real containers, on this machine's CPU: `make test-compose`.

Prints a table as it runs, and writes it to build/compose.md and build/compose.json. At the first failure it prints the
last lines of the logs and exits with 1. Needs Docker with `docker compose` or docker-compose.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

from tests.compose.scenes import SCENES
from tests.compose.stack import ROOT, Failed, Stack, docker

BUILD = ROOT / "build"

HEAD = ("| scene | result | seconds |", "|---|---|---|")


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that `finally` removes the containers
    stack = Stack()
    rows: list[dict[str, object]] = []
    status = 0
    print("\n".join(HEAD), flush=True)
    try:
        for name, scene in SCENES.items():
            started = time.monotonic()
            result = scene(stack)
            rows.append({"scene": name, "result": result, "seconds": round(time.monotonic() - started, 1)})
            print(_row(rows[-1]), flush=True)
    except Failed as error:
        status = 1
        print(f"\n{name}: {error}", file=sys.stderr)
        print(stack.compose("logs", "--no-color", "--tail", "30"), file=sys.stderr)
    finally:
        stack.down()
    versions = {"docker": docker("version", "-f", "{{.Server.Version}}").strip(), "compose": stack.version()}
    BUILD.mkdir(exist_ok=True)
    report = {"ok": not status, "versions": versions, "scenes": rows}
    (BUILD / "compose.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (BUILD / "compose.md").write_text("\n".join([*HEAD, *map(_row, rows)]) + "\n", encoding="utf-8")
    print(f"\nDocker {versions['docker']}, compose {versions['compose']}; written to {Path('build/compose.json')}")
    return status


def _row(row: dict[str, object]) -> str:
    return f"| {row['scene']} | {row['result']} | {row['seconds']} |"


if __name__ == "__main__":
    sys.exit(main())
