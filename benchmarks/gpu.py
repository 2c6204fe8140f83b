"""Everything worth knowing of a GPU in one run of bounded length, the most important first.

    python -m benchmarks.gpu --seconds 240 --out docs/figures/gpu.json     # measure
    python -m benchmarks.gpu --table docs/figures/gpu.json                 # write the tables of docs/performance.md

Each part runs in a process of its own that is killed at the part's time limit, and what it has found so far is in the
file at once. Every part leaves a share of the time to those after it. A part that fails leaves its error there, and the
next one runs. `--parts` chooses among the parts;
`--device cpu --preset tiny` tries all of them on a CPU in seconds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
from pathlib import Path

from benchmarks.gpu_run import PARTS, SECONDS, Run, measure


def main() -> None:
    options = _options()
    if options.table:
        from benchmarks.gpu_table import write_tables

        write_tables(options.table)
        return
    with tempfile.TemporaryDirectory(prefix="duet-gpu-") as folder:
        run, parts = Run(options.device, options.preset, Path(folder)), {name: PARTS[name] for name in options.parts}
        multiprocessing.set_forkserver_preload(["benchmarks.gpu_networks"])  # all parts share the time of importing it
        report = measure(run, parts, options.seconds, options.out)
    for name, found in report["parts"].items():
        print(f"{name}: {found['took_s']} s{', ' + found['error'] if 'error' in found else ''}", file=sys.stderr)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"for all parts together (default {SECONDS})")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="the file of results (default gpu.json)")
    parser.add_argument(
        "--parts", type=_names, default=list(PARTS), help=f"some of {','.join(PARTS)}, in any order (default all)"
    )
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:1, … or cpu")
    parser.add_argument("--preset", default="paper", help="size of the networks (default paper, the published one)")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the tables of docs/performance.md from FILE")
    return parser.parse_args()


def _names(text: str) -> list[str]:
    names = text.split(",")
    if wrong := [name for name in names if name not in PARTS]:
        raise argparse.ArgumentTypeError(f"no such part: {', '.join(wrong)}")
    return names


if __name__ == "__main__":
    main()
