"""Trains the demo model within a number of seconds: `python -m model.demo_training --seconds N --out FOLDER`.

FOLDER receives the model and the state to continue from (`--from`), packed into at most 8 files of at most 15 MiB. It
is written after every piece of the run, so it is usable whenever the process is killed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

CONFIGS = Path(__file__).parents[1] / "training" / "configs"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 if FOLDER holds a model, 1 otherwise."""
    began = time.monotonic()
    options = _options(arguments)
    # Read when torch is loaded. Spinning threads make a step five times slower if another process uses a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import torch

    from model.checkpoint.loading import CheckpointError
    from model.checkpoint.manifest import ManifestError
    from model.demo_training.planned_run import OutOfTime, PlannedRun, Shares
    from model.networks.config import ConfigError
    from model.runtime.allocator import keep_freed_memory
    from model.training.checkpoints import StateError
    from model.training.configuration import ConfigurationError, read_configuration
    from model.training.dataset import DataError
    from model.training.loop import stop_signals
    from model.training.packing import is_packed

    def say(text: str) -> None:
        sys.stdout.write(f"[{time.monotonic() - began:6.1f} s] {text}\n")
        sys.stdout.flush()

    def give_up() -> None:
        held = is_packed(options.out)
        say(f"the time is over; {options.out} {'holds the last result' if held else 'holds nothing'}")
        os._exit(0 if held else 1)

    watchdog = threading.Timer(options.seconds, give_up)
    watchdog.daemon = True
    watchdog.start()
    keep_freed_memory()
    device = torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if options.device == "auto" else options.device
    )
    try:
        base = read_configuration(options.config, options.set)
        sr = read_configuration(options.config_sr, options.set_sr)
        shares = Shares(*(float(share) / 100 for share in options.shares.split(",")))
        with tempfile.TemporaryDirectory(prefix="duet-demo-") as work:
            run = PlannedRun(began, options.seconds, shares, options.out, Path(work), device, say)
            with stop_signals(run.limits):
                if options.resume is not None:
                    run.resume(options.resume)
                run.run(base, sr, options.init)
    except (
        CheckpointError, ConfigError, ConfigurationError, DataError, ManifestError, OutOfTime, RuntimeError, StateError,
        TypeError, ValueError
    ) as error:  # fmt: skip
        say(f"failed: {error}")
        return 1
    finally:
        watchdog.cancel()
    say(f"done: make publish-demo FOLDER={options.out}")
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m model.demo_training", description=__doc__)
    parser.add_argument("--seconds", type=float, required=True, help="when the whole run is over")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder of the packed result")
    parser.add_argument("--from", dest="resume", type=Path, metavar="FOLDER", help="continue an earlier result")
    parser.add_argument("--init", type=Path, metavar="MODEL", help="model folder to take fitting weights from")
    parser.add_argument("--shares", default="70,20", help="percent of the time for base and super-resolution")
    parser.add_argument("--config", type=Path, default=CONFIGS / "demo.toml", help="configuration of the base network")
    parser.add_argument("--config-sr", type=Path, default=CONFIGS / "demo-sr.toml", help="that of super-resolution")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting of --config")
    parser.add_argument("--set-sr", action="append", default=[], metavar="KEY=VALUE", help="change one of --config-sr")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
