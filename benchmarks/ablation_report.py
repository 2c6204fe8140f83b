"""Tables and figure of `benchmarks.ablations`, from the results in its folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.evaluation.fidelity import DISTANCES

FIRST = "windows-1-4-8"
"""The configuration that the others are compared with, and whose checkpoints and samplers are compared."""

ROWS = {
    FIRST: "[1, 4, 8], random shift",
    "another-seed": "the same, another seed",
    "windows-1-1-1": "[1, 1, 1]",
    "windows-4-4-4": "[4, 4, 4]",
    "windows-8-8-8": "[8, 8, 8]",
    "no-shift": "[1, 4, 8], no shift",
    "audio-only": "sound alone",
    "video-only": "pictures alone",
}
LOSSES = {"video": "pictures", "audio": "sound"}
ALIGNMENT = ("onset_f1", "pitch_x", "lag", "av_align")
"""Measures that the distances are compared with; hue and timbre stay at chance in so short a training."""

NORMAL_95 = 1.96


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences and half the width of its interval of 95 %."""

    mean: float
    half: float

    @classmethod
    def of(cls, values: Tensor) -> Difference:
        return cls(float(values.mean()), NORMAL_95 * float(values.std()) / len(values) ** 0.5)


def read(path: Path) -> dict[str, Any] | None:
    """A result, or None if it is not there yet."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def results(out: Path) -> dict[str, dict[str, Any]]:
    """The measured configurations by name, in the order of ROWS."""
    found = ((name, read(out / name / "result.json")) for name in ROWS)
    return {name: result for name, result in found if result is not None}


def loss_change(result: dict[str, Any], first: dict[str, Any], name: str) -> Difference | None:
    """Difference of a held-out loss from that of `first`, clip by clip, in percent of the mean of `first`."""
    if name not in result["losses"]:
        return None
    own, base = (torch.tensor(each["losses"][name]) for each in (result, first))
    return Difference.of(100 * (own - base) / base.mean())


def tables(out: Path) -> str:
    """Everything that is there, as Markdown."""
    found = results(out)
    if not found:
        return "nothing is measured yet"
    some = next(iter(found.values()))
    parts = [
        f"{some['step']} steps of {some['configuration']['batch']} clips, {some['sampling']['clips']} generated clips "
        f"({some['sampling']['sampler']}, {some['sampling']['steps']} steps)",
        configurations(found),
    ]
    samplers = [result for path in sorted((out / FIRST).glob("*-*.json")) if (result := read(path)) is not None]
    compared = [result for result in samplers if result["sampling"]["sampler"] in ("dpm_solver", "ddpm")]
    if compared:
        count = compared[0]["sampling"]["clips"]
        parts += [f"samplers, {count} clips", sampler_table(r for r in samplers if r["sampling"]["clips"] == count)]
    steps = checkpoint_results(out)
    if len(steps) > 2:
        parts += ["checkpoints", checkpoint_table(steps), "Spearman's rank correlation", correlation_table(steps)]
    return "\n\n".join(parts) + "\n"


def configurations(found: dict[str, dict[str, Any]]) -> str:
    first = found.get(FIRST)
    lines = []
    for name, result in found.items():
        cells = [ROWS[name], f"{result['parameters'] / 1e6:.2f} M"]
        for loss in LOSSES:
            change = loss_change(result, first, loss) if first is not None and name != FIRST else None
            values = result["losses"].get(loss)
            mean = "" if values is None else f"{sum(values) / len(values):.4f}"
            cells.append(mean if change is None else f"{mean} ({_signed(change.mean)} ± {change.half:.1f} %)")
        for loss in LOSSES:
            gaps = result["losses"].get(f"gap_{loss}")
            cells.append("" if gaps is None else _plus_minus(Difference.of(1000 * torch.tensor(gaps))))
        cells += _measures(result)
        lines.append(cells)
    gaps = [f"coupling gap, {label}, × 1000" for label in LOSSES.values()]
    return _table(["", "parameters", *(f"loss, {label}" for label in LOSSES.values()), *gaps, *_HEADINGS], lines)


def sampler_table(samplers: Iterable[dict[str, Any]]) -> str:
    lines = [
        [f"{each['sampling']['sampler']}, {each['sampling']['steps']} steps", *_measures(each)] for each in samplers
    ]
    return _table(["", *_HEADINGS], lines)


def checkpoint_results(out: Path) -> list[dict[str, Any]]:
    """The measured checkpoints of the first configuration, oldest first."""
    found = (read(path) for path in sorted((out / FIRST).glob("step-*.json")))
    return [result for result in found if result is not None]


def checkpoint_table(steps: Sequence[dict[str, Any]]) -> str:
    return _table(["step", *_HEADINGS], [[str(each["step"]), *_measures(each)] for each in steps])


def correlation_table(steps: Sequence[dict[str, Any]]) -> str:
    """Distances against alignment scores over checkpoints; −1 is the same order."""
    lines = []
    for distance in DISTANCES:
        values = [each["distances"][distance.name]["value"]["value"] for each in steps]
        cells = [_signed(spearman(values, [each["step"] for each in steps]), 2)]
        for measure in ALIGNMENT:
            cells.append(_signed(spearman(values, [each["scores"][measure]["value"]["value"] for each in steps]), 2))
        lines.append([distance.label, *cells])
    return _table(["", "step", *ALIGNMENT], lines)


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's rank correlation; equal values share their mean rank. 0 where all are equal."""
    ranks = [_ranks(torch.tensor(values, dtype=torch.float64)) for values in (x, y)]
    a, b = (rank - rank.mean() for rank in ranks)
    norm = float(a.norm() * b.norm())
    return float(a @ b) / norm if norm else 0.0


def _ranks(values: Tensor) -> Tensor:
    below = (values[None] < values[:, None]).sum(1)
    equal = (values[None] == values[:, None]).sum(1)
    return below + (equal - 1) / 2


def draw(out: Path, path: Path) -> None:
    """Held-out losses against the first configuration, and distances, as bars."""
    from matplotlib.figure import Figure

    found = results(out)
    names = list(found)
    columns = len(LOSSES) + len(DISTANCES)
    figure = Figure(figsize=(2.3 * columns, 1.2 + 0.3 * len(names)), layout="constrained")
    axes = figure.subplots(1, columns, sharey=True, squeeze=False)[0]
    for axis, (loss, label) in zip(axes, LOSSES.items(), strict=False):
        for row, name in enumerate(names):
            if change := loss_change(found[name], found[FIRST], loss):
                axis.errorbar(change.mean, row, xerr=change.half, fmt="o", color="#2a6f97", capsize=3, markersize=4)
        axis.axvline(0, color="#444", linewidth=1)
        axis.set_title(f"loss, {label}: change, %", fontsize=9)
    for axis, distance in zip(axes[len(LOSSES) :], DISTANCES, strict=True):
        for row, name in enumerate(names):
            if each := found[name]["distances"].get(distance.name):
                value = each["value"]
                reach = [[value["value"] - value["low"]], [value["high"] - value["value"]]]
                axis.barh(row, value["value"], color="#e6a57e")
                axis.errorbar(value["value"], row, xerr=reach, color="#222", capsize=2, linewidth=1)
        axis.set_title(distance.label, fontsize=9)
    for axis in axes:
        axis.set_yticks(range(len(names)), [ROWS[name] for name in names], fontsize=9)
        axis.set_ylim(len(names) - 0.4, -0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(axis="x", labelsize=8)
    figure.savefig(path, dpi=110)


_HEADINGS = ("onset F1 (shuffled)", *(distance.label for distance in DISTANCES))


def _measures(result: dict[str, Any]) -> list[str]:
    score = result.get("scores", {}).get("onset_f1")
    cells = ["" if score is None else f"{score['value']['value']:.2f} ({score['floor']['value']:.2f})"]
    for distance in DISTANCES:
        each = result["distances"].get(distance.name)
        if each is None:
            cells.append("")
            continue
        value = each["value"]
        cells.append(f"{value['value']:.0f} ± {value['high'] - value['value']:.0f}")
    return cells


def _plus_minus(value: Difference) -> str:
    return f"{_signed(value.mean)} ± {value.half:.1f}"


def _signed(value: float, digits: int = 1) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def _table(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [headings, ["---"] * len(headings), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
