"""The stack of docker-compose.yml in real containers, on this machine's CPU: `make test-compose`.

Prints a table as it goes, and writes it to build/compose.md, with JSON beside it. Ends with 1 at the first thing that
does not work, with the last lines of the logs. Needs Docker, and its `docker compose` or docker-compose.
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


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # not without taking the containers down
    stack = Stack()
    rows: list[dict[str, object]] = []
    status = 0
    print("| what | seen | seconds |\n|---|---|---|", flush=True)
    try:
        for name, scene in SCENES.items():
            started = time.monotonic()
            seen = scene(stack)
            rows.append({"what": name, "seen": seen, "seconds": round(time.monotonic() - started, 1)})
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
    table = ["| what | seen | seconds |", "|---|---|---|", *map(_row, rows)]
    (BUILD / "compose.md").write_text("\n".join(table) + "\n", encoding="utf-8")
    print(f"\nDocker {versions['docker']}, compose {versions['compose']}; written to {Path('build/compose.json')}")
    return status


def _row(row: dict[str, object]) -> str:
    return f"| {row['what']} | {row['seen']} | {row['seconds']} |"


if __name__ == "__main__":
    sys.exit(main())
