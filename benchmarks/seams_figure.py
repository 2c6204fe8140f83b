"""Draws what `benchmarks.long_clips` has measured near the borders of windows.

    python -m benchmarks.seams_figure FIGURE MEASURED.json …

Each file is the output of one run of `benchmarks.long_clips`, of one length of clips. One panel for each kind of job:
every measure near borders of the last evaluation over elsewhere, with 95 % intervals, and the same ratio of real clips.
The grey band is the aim, within 10 % of 1.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from model.evaluation.seams import LABELS

ROWS = {"joint": "joint anew 1 coupled", "v2a": "v2a anew 1", "a2v": "a2v anew 1"}
"""What Duet does, by kind of job."""

LIMITS = (0.25, 2.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", type=Path)
    parser.add_argument("measured", type=Path, nargs="+")
    arguments = parser.parse_args()
    draw([json.loads(path.read_text()) for path in arguments.measured], arguments.figure)


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """Draw the rows ROWS of `runs`."""
    from matplotlib.figure import Figure

    names = ["onset_f1", "flux", "change", "jump", "hue"]
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    panels = figure.subplots(1, len(ROWS), sharey=True)
    colours = ("#c8553d", "#3d6fc8")
    for axis, (kind, row) in zip(panels, ROWS.items(), strict=True):
        axis.axvspan(0.9, 1.1, color="#ddd")
        axis.axvline(1, color="#888", linewidth=1)
        for number, run in enumerate(runs):
            if row not in run["rows"]:
                continue
            found = run["rows"][row]
            label: str | None = f"{run['duration']:g} s, {found['clips']} clips"
            for place, name in enumerate(names):
                score = found["seams"]["last_windows"].get(name)
                if score is None:
                    continue
                y = place + 0.32 * (number - (len(runs) - 1) / 2)
                _point(axis, score["real"], y + 0.12, "#777", "real clips" if not number else None)
                _point(axis, score["ratio"], y, colours[number], label)
                label = None
        axis.set_xscale("log")
        axis.set_xlim(*LIMITS)
        axis.set_xticks([0.3, 0.5, 0.7, 1, 1.4, 2], ["0.3", "0.5", "0.7", "1", "1.4", "2"])
        axis.minorticks_off()
        axis.set_yticks(range(len(names)), [LABELS[name] for name in names])
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.set_title(kind)
        axis.spines[["top", "right"]].set_visible(False)
    panels[1].legend(fontsize=7, loc="lower right", frameon=False)
    figure.supxlabel("near borders of windows / elsewhere", fontsize=10)
    figure.savefig(path, dpi=110)


def _point(axis: Any, interval: dict[str, float], y: float, colour: str, label: str | None) -> None:
    value = interval["value"]
    reach = [[max(0.0, value - interval["low"])], [max(0.0, interval["high"] - value)]]
    axis.errorbar(value, y, xerr=reach, fmt="o", markersize=3.5, color=colour, linewidth=1.2, label=label)


if __name__ == "__main__":
    main()
