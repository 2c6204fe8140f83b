"""Training runs for tests, with the smallest network that has all parts: a few milliseconds per step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from model.training import loop
from model.training.configuration import TrainingConfig, build_configuration
from model.training.distribution import Processes
from model.training.publish import publish

SMALL: dict[str, Any] = {
    "name": "small",
    "preset": "tiny",
    "steps": 6,
    "batch": 4,
    "base": {
        "channels": 16,
        "channel_mult": [1, 1],
        "res_blocks": 1,
        "heads": 2,
        "head_channels": 8,
        "cross_attention_scales": [1, 2],
        "windows": [1, 4],
        "video_attention_scales": [2],
    },
    "times": {"independent_timesteps": True},
    "optimizer": {"lr": 1e-3, "warmup": 2, "ema": 0.9},
    "output": {
        "losses": 1,
        "checkpoint": 3,
        "samples": 0,
        "coupling": 0,
        "sample_count": 1,
        "sample_steps": 2,
        "coupling_clips": 4,
        "calibration_clips": 2,
    },
}


def small(**changes: Any) -> TrainingConfig:
    """The small configuration with some settings or tables changed."""
    data = {key: dict(value) if isinstance(value, dict) else value for key, value in SMALL.items()}
    for key, value in changes.items():
        data[key] = {**data.get(key, {}), **value} if isinstance(value, dict) else value
    return build_configuration(data)


def small_teacher(out: Path) -> Path:
    """The folder of a small model, trained for two steps in `out`."""
    run(small(steps=2), out / "run")
    publish(small(steps=2), out / "run", out / "model", torch.float32)
    return out / "model"


def to_toml(**changes: Any) -> str:
    """The same as the text of a TOML file."""
    data = {**SMALL, **changes}

    def written(value: Any) -> str:
        return str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')

    lines = [f"{key} = {written(value)}" for key, value in data.items() if not isinstance(value, dict)]
    for table, values in data.items():
        if isinstance(values, dict):
            lines += [f"[{table}]", *(f"{key} = {written(value)}" for key, value in values.items())]
    return "\n".join(lines)


class Silent:
    """An observer that records its calls."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def step(self, step: int, steps: int, per_second: float, loss: float) -> None:
        pass


def run(
    config: TrainingConfig, out: Path, start: loop.Start | None = None, limits: loop.Limits | None = None
) -> tuple[loop.TrainingRun, bool]:
    """Train in this process. Returns the run and whether it reached its last step."""
    alone = Processes(0, 1, torch.device("cpu"))
    observer = Silent()
    ready = loop.prepare(config, out, alone, start or loop.Start(), observer.say)
    return ready, loop.train(ready, limits or loop.Limits(), observer)
