"""`duet train`: from a configuration to a model that `duet serve` serves."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Annotated, Self

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from duet.cli.failures import FAILED, USAGE, end

if TYPE_CHECKING:
    from model.training.configuration import TrainingConfig
    from model.training.loop import Limits

PLAIN_SECONDS = 10.0
"""Between two lines about the progress where there is no terminal."""


def train(
    config: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The run, as TOML: docs/training.md.")],
    out: Annotated[Path | None, typer.Option(help="The run's folder; default runs/NAME-KIND.")] = None,
    init: Annotated[
        Path | None, typer.Option(exists=True, help="Weights to start from: a model's folder, or a checkpoint.")
    ] = None,
    max_minutes: Annotated[
        float | None, typer.Option(min=0, help="Write a checkpoint and stop after so many minutes.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "auto",
    change: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting, such as optimizer.lr=1e-4.")
    ] = None,
    publish: Annotated[
        Path | None, typer.Option(help="Train no further: write what was learned to this model folder.")
    ] = None,
    export_state: Annotated[
        Path | None, typer.Option(help="Train no further: write the state to this folder, in pieces of 15 MiB.")
    ] = None,
    import_state: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="A state to start from that --export-state wrote.")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="What --publish (default float16) and --export-state (bfloat16) write.")
    ] = "",
) -> None:
    """Train a model as CONFIG says. The same command again goes on where the last one ended, however it ended.

    On several GPUs: torchrun --nproc-per-node N -m duet train CONFIG.
    """
    # Read when torch is loaded. Threads that spin while they wait slow a step fivefold where others use a core as well.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from model.checkpoint.loading import CheckpointError
    from model.checkpoint.manifest import ManifestError
    from model.networks.config import ConfigError
    from model.training.checkpoints import StateError
    from model.training.configuration import ConfigurationError, read_configuration
    from model.training.loop import TrainingError
    from model.training.sources import DataError

    if dtype not in ("", "float16", "bfloat16", "float32"):
        raise end(USAGE, f"--dtype must be float16, bfloat16 or float32; got {dtype}")
    if device not in ("auto", "cpu", "cuda"):
        raise end(USAGE, f"--device must be auto, cpu or cuda; got {device}")
    if init is not None and import_state is not None:
        raise end(USAGE, "--init and --import-state both say what to start from: give one")
    try:
        settings = read_configuration(config, change or ())
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
        raise end(FAILED, str(error)) from error


def _train(
    settings: TrainingConfig,
    folder: Path,
    init: Path | None,
    state: Path | None,
    max_minutes: float | None,
    device: str,
) -> None:
    from model.training import loop
    from model.training.distribution import join_processes

    limits = loop.Limits()
    if max_minutes is not None:
        limits.deadline = time.monotonic() + 60 * max_minutes
    with _stop_signals(limits), join_processes(device) as processes, Display(processes.first) as display:
        display.say(f"{folder}: {settings.steps} steps of {settings.batch} on {processes.count} × {processes.device}")
        run = loop.prepare(settings, folder, processes, loop.Start(init, state), display.say)
        done = loop.train(run, limits, display)
        if done:
            display.say(f"trained to the last step, {run.state.step}; publish it: duet train … --publish models/NAME")
        else:
            display.say(f"stopped after step {run.state.step} of {settings.steps}; the same command goes on from there")


def _publish(settings: TrainingConfig, run: Path, folder: Path, dtype: str, device: str) -> None:
    import torch

    from model.training.publish import calibrate_published, publish
    from model.training.sources import open_sources

    manifest = publish(settings, run, folder, getattr(torch, dtype))
    typer.echo(f"wrote {folder}, {dtype}")
    if settings.kind == "base" and settings.model.base.coupled and settings.output.calibration_clips:
        place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        _, source = open_sources(settings, run, typer.echo)
        calibrate_published(manifest, settings, source, place, typer.echo)
    typer.echo(f"serve it: DUET_MODELS={folder.parent} duet serve")


def _export(settings: TrainingConfig, run: Path, folder: Path, dtype: str) -> None:
    import torch

    from model.training.checkpoints import export_state, read_checkpoint, refuse_other
    from model.training.publish import newest_checkpoint

    path = newest_checkpoint(run)
    content = read_checkpoint(path)
    refuse_other(path, content["config"], settings)
    for written in export_state(content, folder, getattr(torch, dtype)):
        typer.echo(f"{written} {written.stat().st_size}")


@contextmanager
def _stop_signals(limits: Limits) -> Iterator[None]:
    """SIGTERM and the first Ctrl-C end the run after this step, with a checkpoint; the second one ends it at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        limits.stop = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Display:
    """How far a run is, on standard error: a bar in a terminal, a line now and then elsewhere."""

    def __init__(self, talks: bool) -> None:
        self._talks = talks
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
        """A line that stays."""
        if self._talks:
            self._console.print(text, markup=False, soft_wrap=True)

    def step(self, step: int, steps: int, per_second: float, loss: float) -> None:
        """After `step` of `steps`, at `per_second` samples a second."""
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
