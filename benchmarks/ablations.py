"""The paper's ablations in small (Ruan et al., 2023, tables 1, 3 and 4), on `bounce` and on a CPU.

    python -m benchmarks.ablations --out FOLDER [--steps 5000] [--clips 256] [--json FILE] [--figure FILE]

Trains one small network for every configuration below, from the same seed on the same clips, and measures it with
benchmarks/ablation_measures.py. Everything is kept in the folder: a killed run resumes at its last checkpoint, what is
measured is not computed again, and the tables, printed as Markdown, show what is there. A run that ended continues with
a larger --steps, and --at measures checkpoints on the way. The published code builds the middle RS-MMA block for the
windows [1, 4, 8] only, and so do these networks. `python -m benchmarks.ddpm` compares the samplers.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.ablation_measures import Sampling, measured
from benchmarks.ablation_report import draw, result_path, summary, tables
from model.training import loop
from model.training.checkpoints import checkpoints, read_checkpoint
from model.training.configuration import TrainingConfig, build_configuration, configuration_from_json
from model.training.distribution import Processes

CHECKPOINTS = 6
"""Checkpoints kept of each training, at equal distances."""

WARMUP, DECAY = 80, 200
"""Steps in which the learning rate rises, and falls to 0 at the end. From 400 steps on they do not depend on the number
of steps, so that a run that ended can be continued with more; the rate is then high again until its new end."""

REPORT_SECONDS = 30.0


@dataclass(frozen=True)
class Ablation:
    """A network to train: `base` changes settings of the table [base] of the configuration."""

    name: str
    base: dict[str, Any] = field(default_factory=dict)
    seed: int = 0


ABLATIONS = (
    Ablation("windows-1-4-8"),
    Ablation("windows-1-1-1", {"windows": [1, 1, 1]}),
    Ablation("windows-4-4-4", {"windows": [4, 4, 4]}),
    Ablation("windows-8-8-8", {"windows": [8, 8, 8]}),
    Ablation("no-shift", {"window_shift": False}),
    Ablation("audio-only", {"modalities": ["audio"]}),
    Ablation("video-only", {"modalities": ["video"]}),
    Ablation("another-seed", seed=1),
)
"""The first is the paper's choice, which the others change in one setting; the last shows what chance changes."""

BASE: dict[str, Any] = {
    "channels": 16,
    "channel_mult": [2, 2, 2],
    "res_blocks": 1,
    "heads": 2,
    "head_channels": 32,
    "cross_attention_scales": [1, 2, 4],
    "windows": [1, 4, 8],
    "window_shift": True,
    "video_attention_scales": [4],
    "video_patch": 4,
    "audio_patch": 50,
    "norm_groups": 4,
    "prediction": "x0",
}
"""0.6 M parameters: tokens of 4×4 pixels and 50 samples, three scales with RS-MMA as in the paper."""


def configuration(ablation: Ablation, steps: int, batch: int = 8) -> TrainingConfig:
    """Clips of 16 frames of 16×16 pixels at 10 Hz with 8 kHz sound, both modalities always at the same time."""
    return build_configuration(
        {
            "name": ablation.name,
            "preset": "pocket",
            "seed": ablation.seed,
            "steps": steps,
            "batch": batch,
            "precision": "float32",
            "base": {**BASE, **ablation.base},
            "data": {"seed": ablation.seed},
            "times": {"density": "log_snr"},
            "optimizer": {
                "lr": 1e-3,
                "betas": [0.9, 0.99],
                "warmup": min(WARMUP, steps // 5),
                "decay": min(DECAY, steps // 2),
                "ema": 0.998,
                "ema_warmup": True,
            },
            "output": {
                "losses": 20,
                "checkpoint": max(1, steps // CHECKPOINTS),
                "keep": CHECKPOINTS,
                "samples": 0,
                "coupling": 0,
                "tensorboard": False,
            },
        }
    )


class Printed:
    """Prints the progress of a training run, a line every half minute."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._due = time.monotonic() + REPORT_SECONDS

    def say(self, text: str) -> None:
        print(f"{self._name}: {text}", file=sys.stderr, flush=True)

    def step(self, step: int, steps: int, per_second: float, loss: float) -> None:
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + REPORT_SECONDS
            self.say(f"step {step} of {steps}, {per_second:.1f} samples a second, loss {loss:.4f}")


def train(config: TrainingConfig, folder: Path) -> None:
    """Train to the last step, from the newest checkpoint in `folder` if there is one."""
    observer = Printed(config.name)
    run = loop.prepare(config, folder, Processes(0, 1, torch.device("cpu")), loop.Start(), observer.say)
    loop.train(run, loop.Limits(), observer)


@dataclass(frozen=True)
class Sizes:
    """Training steps; generated clips; clips of the losses."""

    steps: int = 5000
    clips: int = 256
    loss_clips: int = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints and results")
    parser.add_argument("--steps", type=int, default=Sizes.steps, help="training steps of 8 clips")
    parser.add_argument("--clips", type=int, default=Sizes.clips, help="generated clips for each measurement")
    names = [each.name for each in ABLATIONS]
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, metavar="NAME", help="configurations to train"
    )
    parser.add_argument("--measure-only", action="store_true", help="train nothing; measure and show what is there")
    parser.add_argument("--at", type=int, metavar="STEP", help="train nothing; measure the checkpoints of this step")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--figure", type=Path, help="also draw the results into this file")
    options = parser.parse_args()
    step = options.at or options.steps
    wanted = () if options.measure_only or options.at else options.only
    run(options.out, Sizes(options.steps, options.clips), wanted, step)
    report = summary(options.out, step)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(tables(report))
    if options.figure:
        draw(report, options.figure)


def run(out: Path, sizes: Sizes, wanted: Collection[str], step: int) -> None:
    """Train the configurations of the names `wanted`, and measure all that have a checkpoint of `step`, unless that is
    done."""
    for ablation in ABLATIONS:
        config, folder = configuration(ablation, sizes.steps), out / ablation.name
        if ablation.name in wanted:
            train(config, folder)
        for checkpoint in checkpoints(folder / "checkpoints"):
            content = read_checkpoint(checkpoint)
            if content["step"] == step and configuration_from_json(content["config"]).steps == sizes.steps:
                sampling = Sampling("dpmpp_2m", 20, sizes.clips)
                measured(config, checkpoint, result_path(out, ablation.name, step), sampling, sizes.loss_clips)


if __name__ == "__main__":
    main()
