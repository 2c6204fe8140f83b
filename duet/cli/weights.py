"""Commands that make models: from published checkpoints, and better with clips of their kind."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def convert(
    base: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A published base model, Landscape.pt.")],
    sr: Annotated[
        Path | None, typer.Argument(exists=True, dir_okay=False, help="Its super-resolution model, Landscape_SR.pt.")
    ] = None,
    name: Annotated[str, typer.Option(help="What requests call the model.")] = "",
    out: Annotated[Path | None, typer.Option(help="The folder to write; default models/NAME.")] = None,
    licence: Annotated[str | None, typer.Option(help="The licence of the weights, shown by /models.")] = None,
    mirrored: Annotated[
        bool, typer.Option(help="Trained on clips flipped left to right, as the published ones.")
    ] = True,
    infer: Annotated[bool, typer.Option(help="Take the architecture from the tensors, not the published one.")] = False,
    frames: Annotated[int, typer.Option(help="Frames of a clip.")] = 16,
    fps: Annotated[int, typer.Option(help="Frames a second.")] = 10,
    size: Annotated[int, typer.Option(help="Height and width of a frame, in pixels.")] = 64,
    sample_rate: Annotated[int, typer.Option(help="Samples of sound a second.")] = 16_000,
) -> None:
    """Convert published checkpoints to a model that Duet serves."""
    from model.checkpoint.convert import UNKNOWN_LICENCE, Conversion
    from model.checkpoint.convert import convert as run
    from model.checkpoint.loading import CheckpointError
    from model.networks.config import ClipSpec, ConfigError

    name = name or base.stem.lower()
    folder = out or Path("models") / name
    try:
        clip = ClipSpec(frames=frames, fps=fps, height=size, width=size, sample_rate=sample_rate)
        options = Conversion(clip=clip, infer=infer, licence=licence or UNKNOWN_LICENCE, mirrored=mirrored)
        manifest = run(base, sr, name, folder, options)
    except (CheckpointError, ConfigError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    height, width = manifest.config.output_size
    typer.echo(f"wrote {folder}: {clip.frames} frames of {height}×{width}, licence: {manifest.licence}")
    typer.echo(f"serve it: DUET_MODELS={folder.parent} duet serve")


def calibrate(
    model: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="The model's folder.")],
    clips: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="A folder of validation videos.")],
    count: Annotated[int, typer.Option(min=1, help="How many clips to use, at most.")] = 64,
    points: Annotated[int, typer.Option(min=2, help="At how many times to measure.")] = 33,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "auto",
) -> None:
    """Measure how wrong a model's prediction is at each time, on videos with sound, and keep it in its manifest.

    The guidance method pigdm needs it.
    """
    from model.checkpoint.loading import CheckpointError
    from model.checkpoint.manifest import ManifestError
    from model.runtime.calibration import calibrate_model

    def report(done: int, path: Path, problem: str | None) -> None:
        typer.echo(f"left out {path}: {problem}" if problem else f"{done} {path}", err=bool(problem))

    try:
        used = calibrate_model(model, clips, count, points, device, report)
    except (CheckpointError, ManifestError, ValueError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    typer.echo(f"calibrated {model} on {used} clips; jobs of this model use pigdm from now on")
