"""`duet data`: check a folder of training videos, and preview the procedural data sets."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter
from cyclopts.types import ExistingDirectory, ExistingFile
from cyclopts.validators import Path as PathKind

from duet.cli.exit_status import FAILED, fail, usage_error
from duet.cli.options import option, within
from duet.cli.output import echo, echo_json
from model.networks.config import PRESETS

MAX_COUNT = 256
MAX_SIZE = 256

DATA_SETS = ("bounce", "scenes")

app = App(name="data", help="Check and preview training data.")


@app.command
def check(
    folder: Annotated[ExistingDirectory, Parameter(help="A folder of videos.")],
    /,
    *,
    config: Annotated[ExistingFile | None, option("The training configuration; default: the paper's.")] = None,
    json: Annotated[bool, option("Print the report as JSON.")] = False,
) -> None:
    """Decode every video in FOLDER; report which ones training can use, and why the others cannot be used.

    Exit status 1 if none can be used.
    """
    from model.training.configuration import ConfigurationError, read_configuration
    from model.training.folder_check import check_folder, check_table

    try:
        settings = read_configuration(config) if config else None
    except ConfigurationError as error:
        raise fail(FAILED, str(error)) from error
    model = settings.model if settings else None
    found = check_folder(folder, model.clip, model.base.modalities) if model else check_folder(folder)
    if json:
        echo_json([asdict(file) for file in found])
    else:
        echo(check_table(found))
    if not any(file.problem is None for file in found):
        raise SystemExit(FAILED)


@app.command
def preview(
    data: Annotated[str, Parameter(help="The data set.", choices=DATA_SETS, show_default=True)] = "bounce",
    /,
    *,
    out: Annotated[Path, option("The folder to write.", validator=PathKind(file_okay=False), show_default=True)] = Path(
        "preview"
    ),
    count: Annotated[int, option("Number of clips.", validator=within(1, MAX_COUNT), show_default=True)] = 16,
    preset: Annotated[str, option("The model's preset.", choices=PRESETS, show_default=True)] = "demo",
    size: Annotated[
        int | None, option("Height and width in pixels; default: those of the preset.", validator=within(1, MAX_SIZE))
    ] = None,
    kind: Annotated[str | None, option("Only this kind of `scenes`, such as fire.")] = None,
    seed: Annotated[int, option("Seed of the data set.", validator=within(0), show_default=True)] = 0,
    held_out: Annotated[bool, option("Draw only combinations that training never sees.")] = False,
) -> None:
    """Draw clips of a procedural data set: contact-sheet.png, spectrograms.png, captions.txt with a line for each clip,
    and clips.mp4 with all of them."""
    import torch

    from model.evaluation.contact_sheets import concatenated, contact_sheet, spectrogram_sheet
    from model.media.encode import write_clip
    from model.training.bounce import Bounce
    from model.training.scenes import Scenes

    clip = PRESETS[preset].clip
    if size is not None:
        clip = replace(clip, height=size, width=size)
    split: Literal["train", "held_out"] = "held_out" if held_out else "train"
    if kind is not None and data != "scenes":
        raise usage_error("--kind", "only scenes has kinds")
    try:
        source = Scenes(clip, seed, split, kind=kind) if data == "scenes" else Bounce(clip, seed, split)
    except ValueError as error:
        raise usage_error("--kind", str(error)) from error
    indexes = torch.arange(count)
    clips = source.batch(indexes)
    try:
        out.mkdir(parents=True, exist_ok=True)
        contact_sheet(clips).save(out / "contact-sheet.png")
        spectrogram_sheet(clips, clip).save(out / "spectrograms.png")
        (out / "captions.txt").write_text("".join(f"{line}\n" for line in source.captions(indexes)), encoding="utf-8")
        frames, sound = concatenated(clips)
        write_clip(out / "clips.mp4", frames, clip.fps, sound, clip.sample_rate, f"{data}, seed {seed}, {count} clips")
    except OSError as error:
        raise fail(FAILED, f"{out} cannot be written: {error.strerror or error}") from error
    echo(f"wrote contact-sheet.png, spectrograms.png, captions.txt and clips.mp4 to {out}")
