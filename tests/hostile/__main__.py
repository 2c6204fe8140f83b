"""`python -m tests.hostile`: hostile files and hostile connections against a real API.

Prints figures. Exits with 1 if any response is wrong, if anything is left behind or touched, if the API needs too much
memory, or if another client waits too long.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from service.app import create_app
from service.log import configure_logging
from service.settings import Settings
from tests.conftest import RedisServer, RunningApi
from tests.hostile import gauntlet, siege
from tests.hostile.attack import Attack
from tests.hostile.case import Case
from tests.hostile.corpus import build
from tests.hostile.range import generous, leftovers
from tests.hostile.watch import Canary, Silence

SEED = 6


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--seed", type=int, default=SEED, help="of damage and noise")
    parser.add_argument("--only", default="", help="run the files and attacks whose name contains this")
    parser.add_argument("--seconds", type=float, default=8, help="of each attack by connections")
    parser.add_argument("--verbose", action="store_true", help="a line for each file and each attack")
    chosen = parser.parse_args()
    configure_logging(Settings(log_level="error"))
    with tempfile.TemporaryDirectory(prefix="duet-hostile-") as name, Silence() as silence:
        folder = Path(name)
        (folder / "sources").mkdir()
        canary = Canary(folder)
        cases = build(folder / "sources", chosen.seed, canary.path, silence.port)
        cases = [case for case in cases if chosen.only in str(case)]
        attacks = [attack for attack in siege.ATTACKS if chosen.only in str(attack)]
        right = True
        if cases:
            print(f"seed {chosen.seed}: {len(cases)} files, {sum(len(case.data) for case in cases) / 2**20:.0f} MiB")
            right &= _send_files(folder, cases, canary, silence, chosen.verbose)
        if attacks:
            right &= _attack(folder, attacks, chosen.seconds, chosen.verbose)
    return 0 if right else 1


def _send_files(folder: Path, cases: Sequence[Case], canary: Canary, silence: Silence, verbose: bool) -> bool:
    """Whether every file gets its response and nothing is left or touched."""
    scratch = folder / "scratch"
    scratch.mkdir()
    with _redis(folder / "redis-files") as url:
        settings = generous(folder / "data", url)
        api = RunningApi(create_app(settings))
        api.start()
        try:
            with canary, gauntlet.Gauntlet(api, settings, scratch) as running:
                began = time.monotonic()
                outcomes = running.run(cases)
                took = time.monotonic() - began
                touched = {"the canary was opened": canary.opened(), "the port was called": silence.called()}
        finally:
            api.stop()
    left = leftovers(settings, scratch)
    if verbose:
        for each in outcomes:
            print(f"{each.status} {each.answer:20} {each.seconds:5.2f} s  {each.case}  {each.end or ''}")
    print(gauntlet.figures(outcomes))
    happened = [what for what, did in touched.items() if did]
    print(f"{took:.0f} s; files left: {left or 'none'}; files opened, connections made: {happened or 'none'}")
    for fault in running.faults.seen:
        print(f"WRONG a probe ended with {fault}")
    return not (running.faults.seen or any(each.wrong for each in outcomes) or happened or left)


def _attack(folder: Path, attacks: Sequence[Attack], seconds: float, verbose: bool) -> bool:
    """Whether the API withstands every attack."""
    (folder / "attacked").mkdir()
    with _redis(folder / "redis-attacks") as url, siege.besieged(generous(folder / "attacked", url), seconds) as under:
        results = []
        for attack in attacks:
            results.append(under.run(attack))
            if verbose:
                print(results[-1], flush=True)
    print(siege.figures(results))
    return not any(each.wrong for each in results)


@contextmanager
def _redis(folder: Path) -> Iterator[str]:
    """A Redis of its own in `folder`; its URL."""
    folder.mkdir()
    redis = RedisServer(folder)
    redis.start()
    try:
        yield redis.url
    finally:
        redis.stop()


if __name__ == "__main__":
    sys.exit(main())
