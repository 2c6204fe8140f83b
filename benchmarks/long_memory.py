"""Measures the memory that a long clip takes above one of one window, without the networks' own. Prints JSON.

    python -m benchmarks.long_memory [--duration 60] [--kind generate] [--guidance METHOD]

The networks do next to nothing, at the sizes of the published model: 64×64 frames, enlarged to 256×256 for generate and
a2v. Parts are dropped as they come, as after encoding. Each clip is made in a process of its own, several times, since
the C library does not give back the same memory each time; the figure is the largest peak of resident memory with the
long clip less the smallest with the short one.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.report import show
from model.checkpoint.manifest import Manifest
from model.networks.config import PRESETS, ModelConfig, SRConfig, UNetConfig
from model.networks.pair import Pair
from model.networks.super_resolution import SRUNet
from model.request import SamplingParams, clip_of
from model.runtime.evaluator import Evaluator
from model.runtime.pipeline import ClipRequest, Pipeline
from model.sampling.schedule import NoiseSchedule

LIMIT = 300
"""MiB."""
REPEATS = 3
CONFIG: ModelConfig = PRESETS["paper"]


class Base(nn.Module):
    config = UNetConfig()
    dtype = torch.float32

    def forward(self, x: Pair, t: Pair, *_: object) -> Pair:
        return x.map(lambda value: 0.1 * value)


class Enlarging(nn.Module):
    config = SRConfig()
    dtype = torch.float32
    upsample = SRUNet.upsample

    def forward(self, x: Tensor, low_res: Tensor, t: Tensor) -> tuple[Tensor, None]:
        return 0.1 * x, None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--duration", type=float, default=60.0)
    parser.add_argument("--kind", choices=("generate", "v2a", "a2v"), default="generate")
    parser.add_argument("--guidance", default=None)
    parser.add_argument("--sampler", default="dpmpp_2m")
    parser.add_argument("--alone", action="store_true", help="make the clip in this process and print its peak")
    arguments = parser.parse_args()
    if arguments.alone:
        print(_peak(arguments))
        return
    peaks = {
        duration: [int(subprocess.check_output(_command(arguments, duration))) for _ in range(REPEATS)]
        for duration in (CONFIG.clip.duration, arguments.duration)
    }
    growth = (max(peaks[arguments.duration]) - min(peaks[CONFIG.clip.duration])) / 1024
    report: dict[str, Any] = {
        "kind": arguments.kind,
        "guidance": arguments.guidance,
        "sampler": arguments.sampler,
        "peak_mib": {str(duration): [round(peak / 1024, 1) for peak in each] for duration, each in peaks.items()},
        "figures": {
            "growth_mib": {"value": round(growth, 1), "target": f"at most {LIMIT}", "met": growth <= LIMIT},
        },
    }
    show(report)


def _command(arguments: argparse.Namespace, duration: float) -> list[str]:
    options = [f"--duration={duration}", f"--kind={arguments.kind}", f"--sampler={arguments.sampler}", "--alone"]
    if arguments.guidance is not None:
        options.append(f"--guidance={arguments.guidance}")
    return [sys.executable, "-m", "benchmarks.long_memory", *options]


def _peak(arguments: argparse.Namespace) -> int:
    """KiB."""
    torch.set_num_threads(1)
    curve = [0.01, 0.1, 0.3]
    calibration = {"times": [0.0, 500.0, 999.0], "video": curve, "audio": curve}
    manifest = Manifest("memory", CONFIG, False, "", "MIT", init_seed=0, calibration=calibration)
    manifest = replace(manifest, independent_timesteps=True)
    schedule = NoiseSchedule.from_config(CONFIG.schedule)
    pipeline = Pipeline(manifest, Evaluator(Base(), Enlarging(), schedule), torch.device("cpu"))  # type: ignore[arg-type]
    spec = clip_of(arguments.duration, CONFIG.clip)
    condition = None
    if arguments.kind == "v2a":
        condition = torch.zeros(spec.video_shape, dtype=torch.uint8)
    elif arguments.kind == "a2v":
        condition = torch.zeros(spec.audio_shape)
    params = SamplingParams(
        0, steps=4, sampler=arguments.sampler, guidance=arguments.guidance, duration=arguments.duration
    )
    frames = 0
    for part in pipeline.stream(ClipRequest(arguments.kind, params, condition=condition)):
        frames += len(part.frames) if part.frames is not None else 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
