"""Tuned solvers for models of tests: third-order weights on a grid that no other sampler uses."""

from __future__ import annotations

from dataclasses import replace

from model.checkpoint.manifest import Manifest
from model.networks.config import ClipSpec, ModelConfig, SRConfig, UNetConfig
from model.sampling.schedule import NoiseSchedule
from model.sampling.tuned import multistep_weights
from model.sampling.tuned_solver import TunedSolver, TunedSolvers

SMALL = ModelConfig(
    clip=ClipSpec(frames=4, height=8, width=8, sample_rate=640),
    base=UNetConfig(
        channels=16,
        channel_mult=(1,),
        res_blocks=1,
        heads=1,
        head_channels=16,
        cross_attention_scales=(1,),
        windows=(1,),
        video_attention_scales=(),
        audio_attention_scales=(),
    ),
    sr=SRConfig(factor=2, channels=16, channel_mult=(1,), res_blocks=1, attention_scales=()),
)
"""A model with super-resolution whose forwards are as short as they can be."""

NAMES = ("generate", "v2a clean", "v2a pigdm", "a2v clean", "a2v pigdm")


def solver(schedule: NoiseSchedule, count: int, start: float | None = None) -> TunedSolver:
    """A solver of `count` evaluations of both modalities, from `start` (the noisiest time if absent)."""
    times = tuple(schedule.times(count, "quadratic", start)[:-1])
    rows = multistep_weights(schedule, times, 3)
    return TunedSolver(times, {"video": rows, "audio": rows}, {"tuned": {"video": 0.1, "audio": 0.2}})


def with_solvers(
    manifest: Manifest,
    counts: tuple[int, ...] = (4, 6, 8, 10),
    sr_counts: tuple[int, ...] = (2, 3, 4),
    teacher_steps: int = 64,
) -> Manifest:
    """The manifest with solvers for everything that it can be tuned for, and that belong to its weights."""
    schedule = NoiseSchedule.from_config(manifest.config.schedule)
    tuned = TunedSolvers(
        teacher_steps,
        manifest.network_hash("base"),
        manifest.network_hash("sr"),
        {name: {count: solver(schedule, count) for count in counts} for name in NAMES},
        {count: solver(schedule, count, 400.0) for count in sr_counts},
    )
    return replace(manifest, tuned=tuned)
