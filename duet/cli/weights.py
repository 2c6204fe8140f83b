"""`duet convert`, `duet calibrate`: make a model from published checkpoints, and calibrate it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import ExistingDirectory, ExistingFile

from duet.cli.exit_status import FAILED, fail
from duet.cli.options import option, within
from duet.cli.output import echo


def convert(
    base: Annotated[ExistingFile, Parameter(help="A published base model, Landscape.pt.")],
    sr: Annotated[ExistingFile | None, Parameter(help="Its super-resolution model, Landscape_SR.pt.")] = None,
    /,
    *,
    name: Annotated[str, option("The model's name in requests; default: that of the file.")] = "",
    out: Annotated[Path | None, option("The folder to write; default models/NAME.")] = None,
    licence: Annotated[str | None, option("Licence of the weights, shown by /models.")] = None,
    mirrored: Annotated[
        bool,
        option(
            "The model was trained on clips flipped left to right, as the published ones were; the default.",
            negative="--no-mirrored",
        ),
    ] = True,
    infer: Annotated[bool, option("Infer the architecture from the tensors; default: the published one.")] = False,
    frames: Annotated[int, option("Frames of a clip.", show_default=True)] = 16,
    fps: Annotated[int, option("Frames per second.", show_default=True)] = 10,
    size: Annotated[int, option("Height and width of a frame, in pixels.", show_default=True)] = 64,
    sample_rate: Annotated[int, option("Audio samples per second.", show_default=True)] = 16_000,
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
        raise fail(FAILED, str(error)) from error
    height, width = manifest.config.output_size
    echo(f"wrote {folder}: {clip.frames} frames of {height}×{width}, licence: {manifest.licence}")
    echo(f"serve it: DUET_MODELS={folder.parent} duet serve")


def calibrate(
    model: Annotated[ExistingDirectory, Parameter(help="The model's folder.")],
    clips: Annotated[
        ExistingDirectory | None,
        Parameter(help="A folder of validation videos; default: clips of the procedural data set of its training."),
    ] = None,
    /,
    *,
    count: Annotated[int, option("Maximum number of clips.", validator=within(1), show_default=True)] = 64,
    points: Annotated[
        int, option("Number of diffusion times to measure.", validator=within(2), show_default=True)
    ] = 33,
    device: Annotated[str, option("cpu, cuda, or auto.", show_default=True)] = "auto",
) -> None:
    """Measure the error of a model's prediction at each diffusion time on clips, and store it in the manifest.

    The guidance method pigdm needs this calibration.
    """
    from model.checkpoint.loading import CheckpointError
    from model.checkpoint.manifest import ManifestError
    from model.runtime.calibration import calibrate_model
    from model.training.publish import calibrate_on_own_data

    def report(done: int, path: Path, problem: str | None) -> None:
        echo(f"left out {path}: {problem}" if problem else f"{done} {path}", err=bool(problem))

    try:
        if clips is None:
            used = count
            calibrate_on_own_data(model, count, points, device)
        else:
            used = calibrate_model(model, clips, count, points, device, report)
    except (CheckpointError, ManifestError, ValueError) as error:
        raise fail(FAILED, str(error)) from error
    echo(f"calibrated {model} on {used} clips; jobs of this model use pigdm from now on")
