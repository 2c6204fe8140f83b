"""`python -m tests.hostile`: the whole corpus against a real API. Prints figures; ends with 1 if anything is wrong."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from service.app import create_app
from service.log import configure_logging
from service.settings import Settings
from tests.conftest import RedisServer, RunningApi
from tests.hostile.corpus import build
from tests.hostile.gauntlet import Gauntlet, figures
from tests.hostile.range import generous, leftovers
from tests.hostile.watch import Canary, Silence

SEED = 6


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--seed", type=int, default=SEED, help="of damage and noise")
    parser.add_argument("--only", default="", help="run the inputs whose name contains this")
    parser.add_argument("--verbose", action="store_true", help="a line for each input")
    chosen = parser.parse_args()
    configure_logging(Settings(log_level="error"))
    with tempfile.TemporaryDirectory(prefix="duet-hostile-") as name, Silence() as silence:
        folder = Path(name)
        for each in ("redis", "sources", "scratch"):
            (folder / each).mkdir()
        canary = Canary(folder)
        cases = build(folder / "sources", chosen.seed, canary.path, silence.port)
        cases = [case for case in cases if chosen.only in str(case)]
        print(
            f"seed {chosen.seed}: {len(cases)} inputs, {sum(len(case.data) for case in cases) / 2**20:.0f} MiB",
            flush=True,
        )
        redis = RedisServer(folder / "redis")
        redis.start()
        settings = generous(folder / "data", redis.url)
        api = RunningApi(create_app(settings))
        api.start()
        try:
            with canary, Gauntlet(api, settings, folder / "scratch") as gauntlet:
                began = time.monotonic()
                outcomes = gauntlet.run(cases)
                took = time.monotonic() - began
                touched = {"the canary was opened": canary.opened(), "the port was called": silence.called()}
        finally:
            api.stop()
            redis.stop()
        left = leftovers(settings, folder / "scratch")
    if chosen.verbose:
        for each in outcomes:
            print(f"{each.status} {each.answer:20} {each.seconds:5.2f} s  {each.case}  {each.end or ''}")
    print(figures(outcomes))
    print(f"{took:.0f} s; files left: {left or 'none'}; other files opened, connections made: "
          f"{[what for what, happened in touched.items() if happened] or 'none'}")  # fmt: skip
    for fault in gauntlet.faults.seen:
        print(f"WRONG a probe ended with {fault}")
    return int(
        bool(gauntlet.faults.seen) or any(each.wrong for each in outcomes) or any(touched.values()) or bool(left)
    )


if __name__ == "__main__":
    sys.exit(main())
