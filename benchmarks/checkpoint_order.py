"""Do the distances order the checkpoints of a training run as the alignment scores do? Prints Markdown.

    python -m benchmarks.checkpoint_order RUN [--clips 64] [--json FILE] [--figure docs/figures/checkpoint_order.png]
    python -m benchmarks.checkpoint_order RUN --recover 160 …

RUN is the folder of a `duet train` run of a coupled base network for `bounce`. Joint clips of the same seeds are
generated with the averaged weights of every checkpoint in it; features and detections are kept in RUN/order, so that
a run that was stopped goes on from there. The rank correlation is Spearman's, between a distance, with its sign
changed, and a score over the checkpoints: 1 is the same order. Its interval of 95 % is a bootstrap over clips; it does
not say how another run would order its checkpoints.

`--recover STEPS` trains such a run first: the demo model's base network with noise of DAMAGE of the standard deviation
of every tensor, where sound and picture are unrelated, recovers in minutes what takes hours from random weights.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.ablation_measures import checkpoint_network, joint_clips
from benchmarks.ablations import Printed
from benchmarks.report import processor
from model.checkpoint.manifest import find_models
from model.evaluation.alignment import MEASURES, detect
from model.evaluation.bootstrap import SHUFFLES, interval, resample_weights
from model.evaluation.distances import NORMAL_95, RESAMPLES, frechet_distance
from model.evaluation.fidelity import DISTANCES, features_of
from model.evaluation.generation import real_clips
from model.evaluation.intervals import Interval
from model.networks.config import ClipSpec
from model.request import SamplingParams
from model.sampling.latents import Latents
from model.training import loop
from model.training.checkpoints import checkpoints, read_checkpoint
from model.training.configuration import TrainingConfig, configuration_from_json, read_configuration
from model.training.distribution import Processes

SCORES = {each.name: each.label for each in MEASURES if each.name not in ("hue_timbre", "hue_kept")}
"""Hue and timbre stay at chance in joint clips, even of the demo model. Whether discs keep their hues says nothing of
sound."""

REFERENCE = 512
"""Real clips that the distances are to."""

DAMAGE = 0.3
CHECKPOINTS = 8
POCKET = Path("model/training/configs/pocket.toml")


def recover(run: Path, steps: int, damage: float = DAMAGE) -> None:
    """Train the demo model's base network with noise in its weights for `steps` steps, with CHECKPOINTS checkpoints."""
    overrides = [
        f"steps={steps}",
        "batch=8",
        "optimizer.lr=5e-4",
        f"optimizer.warmup={min(20, steps)}",
        "optimizer.decay=0",
        f"output.checkpoint={max(1, steps // CHECKPOINTS)}",
        f"output.keep={CHECKPOINTS + 1}",
        "output.samples=0",
        "output.coupling=0",
    ]
    init = run / "init.safetensors"
    if not init.exists():
        run.mkdir(parents=True, exist_ok=True)
        manifest = find_models()["demo"]
        assert manifest.base_weights is not None
        draws = torch.Generator().manual_seed(0)
        weights = load_file(manifest.folder / manifest.base_weights)
        save_file({name: _noisy(value.float(), damage, draws) for name, value in weights.items()}, init)
    observer = Printed("recovery")
    device = torch.device("cpu")
    training = loop.prepare(
        read_configuration(POCKET, overrides), run, Processes(0, 1, device), loop.Start(init=init), observer.say
    )
    loop.train(training, loop.Limits(), observer)


def _noisy(value: Tensor, damage: float, draws: torch.Generator) -> Tensor:
    if value.numel() < 2:
        return value
    return value + damage * value.std() * torch.randn(value.shape, generator=draws)


def order(run: Path, clips: int, steps: int) -> dict[str, Any]:
    """Measure every checkpoint of `run` on `clips` clips of `steps` sampling steps. Raises ValueError for fewer than
    three checkpoints."""
    found = checkpoints(run / "checkpoints")
    if len(found) < 3:
        raise ValueError(f"{run} has {len(found)} checkpoints; a rank correlation needs at least 3")
    config = configuration_from_json(read_checkpoint(found[-1])["config"])
    spec = config.model.clip
    kept = [_kept(run, config, path, clips, steps) for path in found]
    real = real_clips(spec, "train", clips)
    reference = features_of(real_clips(spec, "train", REFERENCE, first=clips), spec)
    ceiling = {each.name: each.statistics(detect(real, spec)).double().sum(0) for each in MEASURES}
    others = features_of(real, spec)
    weights = resample_weights(clips, torch.Generator().manual_seed(0))[: 1 + RESAMPLES]
    scores = {
        name: torch.stack([_normalised(name, each, ceiling[name], weights) for each in kept], 1) for name in SCORES
    }
    distances = {
        each.name: torch.stack([_distances(each.name, features, reference, weights) for features in kept], 1)
        for each in DISTANCES
    }
    steps_of = torch.tensor([read_checkpoint(path)["step"] for path in found], dtype=torch.float64)
    orders = {"step": steps_of.expand(1 + RESAMPLES, -1), **scores}
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": processor(),
        "clips": clips,
        "sampling_steps": steps,
        "reference": REFERENCE,
        "steps": [int(step) for step in steps_of],
        "distances": {name: _around(values) for name, values in distances.items()},
        "floors": {name: float(_distances(name, others, reference, weights[:1])) for name in distances},
        "scores": {name: [asdict(interval(each)) for each in values.T] for name, values in scores.items()},
        "correlations": {
            distance: {name: asdict(interval(spearman(-values, other))) for name, other in orders.items()}
            for distance, values in distances.items()
        },
    }


def _kept(run: Path, config: TrainingConfig, checkpoint: Path, clips: int, steps: int) -> dict[str, Tensor]:
    """Features of every distance and statistics of every score, by name, of the clips of a checkpoint."""
    path = run / "order" / f"{checkpoint.stem}-{clips}-{steps}.safetensors"
    if not path.exists():
        network = checkpoint_network(config, read_checkpoint(checkpoint))
        params = SamplingParams(0, sampler="dpmpp_2m", steps=steps, super_resolution=False)
        made = joint_clips(network, config, params, clips)
        content = features_of(made, config.model.clip) | statistics(made, config.model.clip)
        path.parent.mkdir(exist_ok=True)
        save_file({name: value.contiguous() for name, value in content.items()}, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)
        print(f"{path}: measured", file=sys.stderr, flush=True)
    return load_file(path)


def statistics(made: Latents, spec: ClipSpec) -> dict[str, Tensor]:
    """The terms of every score of each clip, and those of shuffled pairs, summed over SHUFFLES pairings."""
    own = detect(made, spec)
    others = [own.shuffled(by) for by in range(1, min(SHUFFLES, own.clips - 1) + 1)]
    found = {}
    for each in (measure for measure in MEASURES if measure.name in SCORES):
        found[each.name] = each.statistics(own).double()
        found[f"{each.name}_shuffled"] = torch.stack([each.statistics(other).double() for other in others]).sum(0)
    return found


def _normalised(name: str, kept: dict[str, Tensor], ceiling: Tensor, weights: Tensor) -> Tensor:
    value_of = next(each.value for each in MEASURES if each.name == name)
    value, floor = (value_of(weights @ kept[key]) for key in (name, f"{name}_shuffled"))
    return (value - floor) / (value_of(ceiling) - floor)


def _distances(name: str, kept: dict[str, Tensor], reference: dict[str, Tensor], weights: Tensor) -> Tensor:
    """The distance of all clips, then of each resample."""
    divisor = next(each for each in DISTANCES if each.name == name).divisor(reference[name])
    made, real = kept[name] / divisor, reference[name] / divisor
    rows = (made.repeat_interleave(counts.long(), 0) for counts in weights)
    return torch.tensor([frechet_distance(some, real) for some in rows], dtype=torch.float64)


def _around(values: Tensor) -> list[dict[str, float]]:
    """Of distances (1 + resamples, checkpoints), one interval a checkpoint, normal as in model.evaluation.distances."""
    reach = NORMAL_95 * values[1:].std(0)
    return [
        asdict(Interval(float(value), float(value - half), float(value + half)))
        for value, half in zip(values[0], reach, strict=True)
    ]


def spearman(x: Tensor, y: Tensor) -> Tensor:
    """Spearman's rank correlation of (…, n) with (…, n); equal values share their mean rank. 0 where all are equal."""
    a, b = (rank - rank.mean(-1, keepdim=True) for rank in (_ranks(x), _ranks(y)))
    norm = a.norm(dim=-1) * b.norm(dim=-1)
    return torch.where(norm > 0, (a * b).sum(-1) / norm.clamp(min=1e-12), 0.0)


def _ranks(values: Tensor) -> Tensor:
    below = (values[..., None, :] < values[..., None]).sum(-1)
    equal = (values[..., None, :] == values[..., None]).sum(-1)
    return below + (equal.double() - 1) / 2


def tables(report: dict[str, Any]) -> str:
    """Scores and distances of every checkpoint, and the rank correlations, as Markdown."""
    labels = {each.name: each.label for each in DISTANCES}
    lines = [["step", *SCORES.values(), *labels.values()]]
    for number, step in enumerate(report["steps"]):
        scores = [f"{report['scores'][name][number]['value']:.2f}".replace("-", "−") for name in SCORES]
        lines.append([str(step), *scores, *(f"{report['distances'][name][number]['value']:.0f}" for name in labels)])
    lines.append(["real clips", *("" for _ in SCORES), *(f"{report['floors'][name]:.0f}" for name in labels)])
    correlations = [["", "training step", *SCORES.values()]]
    for name, label in labels.items():
        cells = [
            "{value:.2f} ({low:.2f} … {high:.2f})".format(**each) for each in report["correlations"][name].values()
        ]
        correlations.append([label, *(cell.replace("-", "−") for cell in cells)])
    return f"{_markdown(lines)}\n\n{_markdown(correlations)}\n"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = rows
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rest))


def draw(report: dict[str, Any], path: Path) -> None:
    """Scores, and distances as a share of the first checkpoint's, over the steps of the run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, label in SCORES.items():
        _curve(left, report["steps"], report["scores"][name], 1.0, label)
    for each in DISTANCES:
        values = report["distances"][each.name]
        _curve(right, report["steps"], values, values[0]["value"], each.label)
    left.set(title="alignment, normalised", xlabel="training step")
    right.set(title="distance, share of the first", xlabel="training step", ylim=(0, None))
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def _curve(axis: Any, steps: Sequence[int], values: Sequence[dict[str, float]], unit: float, label: str) -> None:
    middle, low, high = ([each[part] / unit for each in values] for part in ("value", "low", "high"))
    (line,) = axis.plot(steps, middle, marker="o", markersize=4, label=label)
    axis.fill_between(steps, low, high, color=line.get_color(), alpha=0.12, linewidth=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a training run")
    parser.add_argument("--recover", type=int, metavar="STEPS", help="train the run first")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--sampling-steps", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--figure", type=Path, help="also draw the results into this file")
    options = parser.parse_args()
    if options.recover:
        recover(options.run, options.recover)
    report = order(options.run, options.clips, options.sampling_steps)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(tables(report))
    if options.figure:
        draw(report, options.figure)


if __name__ == "__main__":
    main()
