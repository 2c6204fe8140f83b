"""`duet train`: train a model from a configuration, and publish it for `duet serve`."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Self

from cyclopts import Parameter
from cyclopts.types import ExistingDirectory, ExistingFile, ExistingPath
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from duet.cli.exit_status import FAILED, USAGE, fail
from duet.cli.options import DEVICES, DTYPES, option, within
from duet.cli.output import echo

if TYPE_CHECKING:
    from model.training.configuration import TrainingConfig

PLAIN_SECONDS = 10.0
"""Between two progress lines without a terminal."""


def train(
    config: Annotated[ExistingFile, Parameter(help="The run's configuration, a TOML file: docs/training.md.")],
    /,
    *,
    out: Annotated[Path | None, option("The run's folder; default runs/NAME-KIND.")] = None,
    init: Annotated[ExistingPath | None, option("Initial weights: a model's folder, or a checkpoint.")] = None,
    distill: Annotated[
        ExistingDirectory | None, option("Distil this model into a network of few evaluations: docs/few-steps.md.")
    ] = None,
    max_minutes: Annotated[
        float | None, option("Write a checkpoint and stop after this many minutes.", validator=within(0))
    ] = None,
    device: Annotated[str, option("Device.", choices=DEVICES, show_default=True)] = "auto",
    change: Annotated[
        list[str] | None,
        option("Override a setting, as in optimizer.lr=1e-4; may be repeated.", "--set", metavar="KEY=VALUE"),
    ] = None,
    publish: Annotated[Path | None, option("Do not train: write the trained weights to this model folder.")] = None,
    export_state: Annotated[
        Path | None, option("Do not train: write the training state to this folder, in parts of 15 MiB.")
    ] = None,
    import_state: Annotated[ExistingDirectory | None, option("Start from a state that --export-state wrote.")] = None,
    dtype: Annotated[
        str | None,
        option("Type that --publish (default float16) and --export-state (bfloat16) write.", choices=DTYPES),
    ] = None,
) -> None:
    """Train a model as configured in CONFIG. The same command resumes an interrupted run, however it ended.

    On several GPUs: torchrun --nproc-per-node N -m duet train CONFIG.
    """
    # Read when torch is loaded. Spinning threads make a step five times slower if another process uses a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from model.checkpoint.loading import CheckpointError
    from model.checkpoint.manifest import ManifestError
    from model.networks.config import ConfigError
    from model.training.checkpoints import StateError
    from model.training.configuration import ConfigurationError, read_configuration
    from model.training.dataset import DataError
    from model.training.loop import TrainingError

    if init is not None and import_state is not None:
        raise fail(USAGE, "--init and --import-state both set the initial state: give one")
    changes = [*(change or ()), *([f"distillation.teacher={json.dumps(str(distill))}"] if distill is not None else ())]
    try:
        settings = read_configuration(config, changes)
        folder = out or Path("runs") / f"{settings.name}-{settings.kind}"
        if publish is not None:
            _publish(settings, folder, publish, dtype or "float16", device)
        elif export_state is not None:
            _export(settings, folder, export_state, dtype or "bfloat16")
        else:
            _train(settings, folder, init, import_state, max_minutes, device)
    except (
        CheckpointError, ConfigError, ConfigurationError, DataError, ManifestError, StateError, TrainingError
    ) as error:  # fmt: skip
        raise fail(FAILED, str(error)) from error


def _train(
    settings: TrainingConfig,
    folder: Path,
    init: Path | None,
    state: Path | None,
    max_minutes: float | None,
    device: str,
) -> None:
    from model.runtime.allocator import keep_freed_memory
    from model.training import loop
    from model.training.distribution import join_processes

    limits = loop.Limits()
    if max_minutes is not None:
        limits.deadline = time.monotonic() + 60 * max_minutes
    keep_freed_memory()
    with loop.stop_signals(limits), join_processes(device) as processes, TrainingProgress(processes.first) as display:
        display.say(f"{folder}: {settings.steps} steps of {settings.batch} on {processes.count} × {processes.device}")
        run = loop.prepare(settings, folder, processes, loop.Start(init, state), display.say)
        done = loop.train(run, limits, display)
        if done:
            display.say(f"trained to the last step, {run.state.step}; publish it: duet train … --publish models/NAME")
        else:
            display.say(f"stopped after step {run.state.step} of {settings.steps}; the same command resumes from there")


def _publish(settings: TrainingConfig, run: Path, folder: Path, dtype: str, device: str) -> None:
    import torch

    from model.training.distillation import with_student_solvers
    from model.training.publish import calibrate_published, publish
    from model.training.sources import open_sources

    manifest = publish(settings, run, folder, getattr(torch, dtype))
    echo(f"wrote {folder}, {dtype}")
    place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    calibrated = settings.kind == "base" and settings.model.base.coupled and settings.output.calibration_clips
    distilled = settings.distillation
    if calibrated or distilled.teacher:
        _, source = open_sources(settings, run, echo)
        if distilled.teacher:
            manifest = with_student_solvers(manifest, settings, source, place)
            manifest.write(folder)
            echo(f"it was distilled for the sampler tuned with {distilled.evaluations} steps")
        if calibrated:
            calibrate_published(manifest, settings, source, place, echo)
    echo(f"serve it: DUET_MODELS={folder.parent} duet serve")


def _export(settings: TrainingConfig, run: Path, folder: Path, dtype: str) -> None:
    import torch

    from model.training.checkpoints import check_same_run, export_state, read_checkpoint
    from model.training.publish import newest_checkpoint

    path = newest_checkpoint(run)
    content = read_checkpoint(path)
    check_same_run(path, content["config"], settings)
    for written in export_state(content, folder, getattr(torch, dtype)):
        echo(f"{written} {written.stat().st_size}")


class TrainingProgress:
    """Progress of a run on standard error: a bar in a terminal, otherwise a line every few seconds."""

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._console = Console(file=sys.stderr, highlight=False)
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            console=self._console,
        )
        self._task = self._bar.add_task("", total=None, detail="")
        self._silent_until = 0.0
        self._began: tuple[int, float] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """Print a permanent line."""
        if self._enabled:
            self._console.print(text, markup=False, soft_wrap=True)

    def step(self, step: int, steps: int, per_second: float, loss: float) -> None:
        """Report `step` of `steps`, at `per_second` samples per second."""
        now = time.monotonic()
        if self._began is None:
            self._began = step, now
            self._silent_until = now + 1
            return
        first, began = self._began
        left = (now - began) / (step - first) * (steps - step)
        known = f"loss {loss:.4f}, " if math.isfinite(loss) else ""
        detail = f"{known}{per_second:.1f} samples/s, {_duration(left)} left"
        if self._console.is_terminal:
            self._bar.start()
            self._bar.update(self._task, completed=step, total=steps, detail=detail)
        elif now >= self._silent_until or step == steps:
            self._silent_until = now + PLAIN_SECONDS
            self.say(f"step {step}/{steps}, {detail}")


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
