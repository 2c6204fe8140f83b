"""Whether a model that was trained on is better than the one it began with: the loss of both on the same samples.

    python -m benchmarks.held_out_loss examples/models/scenes build/demo-run [--batches 16] [--network sr]

Takes folders of models, and of results of `make train-demo`. Samples, noise and times are those of training steps that
no run has reached, drawn with the configuration that is recorded beside the first model; of a folder of videos, those
that were held out. The loss of a batch varies far more than two models differ, so the difference is taken within each
batch; its interval is of 95 %. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.report import surroundings
from model.checkpoint.loading import load_model
from model.checkpoint.manifest import FILE_NAME, read_manifest
from model.networks.coupled_unet import CoupledUNet
from model.networks.super_resolution import SRUNet
from model.training.loss_terms import Term
from model.training.objectives import make_objective
from model.training.packing import is_packed, unpack
from model.training.publish import recorded_configuration
from model.training.sources import open_sources

FIRST_STEP = 10_000_000
"""Far beyond the steps of any training run: procedural samples of its number were never seen."""

BATCH = 16
CPU = torch.device("cpu")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="the folder of a model")
    parser.add_argument("after", type=Path, help="that of another with the same layout, such as build/demo-run")
    parser.add_argument("--batches", type=int, default=16, help=f"of {BATCH} samples each (default 16), at least 2")
    parser.add_argument("--network", choices=("base", "sr"), default="base")
    options = parser.parse_args(arguments)
    if options.batches < 2:
        parser.error("--batches must be at least 2")
    with tempfile.TemporaryDirectory() as work:
        folders = _opened(options.before, Path(work) / "before"), _opened(options.after, Path(work) / "after")
        found = compare(folders, options.network, options.batches)
    measured = {"network": options.network, "samples": BATCH * options.batches, "losses": found}
    print(json.dumps({**surroundings(), **measured}, indent=2))


def compare(folders: tuple[Path, Path], network: str, batches: int) -> dict[str, Any]:
    """By term of the loss: its mean for each model, and the mean and half the interval of the difference."""
    config = replace(recorded_configuration(folders[0], network), batch=BATCH, accumulate=1)
    objective = make_objective(config, CPU)
    networks = [_network(folder, network) for folder in folders]
    values: dict[str, list[tuple[float, float]]] = {name: [] for name in objective.terms}
    with tempfile.TemporaryDirectory() as work, torch.inference_mode():
        source = open_sources(config, Path(work), lambda text: None)[1]
        for step in range(FIRST_STEP, FIRST_STEP + batches):
            (inputs,) = objective.inputs(source, step, range(BATCH))
            before, after = (objective.losses(each, inputs) for each in networks)
            for name, pairs in values.items():
                pairs.append((_mean(before[name]), _mean(after[name])))
    return {name: _summary(pairs) for name, pairs in values.items()}


def _opened(folder: Path, work: Path) -> Path:
    """The model's folder, unpacked to `work` if `folder` is the result of a run."""
    if not is_packed(folder):
        return folder
    unpack(folder, work)
    return work / "model"


def _network(folder: Path, network: str) -> CoupledUNet | SRUNet:
    base, sr = load_model(read_manifest(folder / FILE_NAME), CPU, torch.float32)
    if network == "base":
        return base.eval()
    if sr is None:
        raise SystemExit(f"{folder} has no super-resolution network")
    return sr.eval()


def _mean(term: Term) -> float:
    """Over the samples that the term covers."""
    return float(term.sum) / max(1.0, float(term.count))


def _summary(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    before, after = (statistics.mean(values) for values in zip(*pairs, strict=True))
    differences = [second - first for first, second in pairs]
    half = 1.96 * statistics.stdev(differences) / len(pairs) ** 0.5
    return {
        "before": round(before, 5),
        "after": round(after, 5),
        "difference": round(statistics.mean(differences), 5),
        "interval": round(half, 5),
    }


if __name__ == "__main__":
    main()
