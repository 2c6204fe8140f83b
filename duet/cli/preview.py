"""`duet data preview`: what the procedural data set looks and sounds like."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from duet.cli.failures import FAILED, USAGE, end

MAX_COUNT = 256


def preview(
    out: Annotated[Path, typer.Option(file_okay=False, help="The folder to write.")] = Path("preview"),
    count: Annotated[int, typer.Option(min=1, max=MAX_COUNT, help="How many clips.")] = 16,
    preset: Annotated[str, typer.Option(help="Whose clips: demo, paper, pocket, tiny.")] = "demo",
    seed: Annotated[int, typer.Option(min=0, help="Of the data set.")] = 0,
    held_out: Annotated[bool, typer.Option("--held-out", help="The combinations that training never sees.")] = False,
) -> None:
    """Draw clips of the data set `bounce`: contact-sheet.png, spectrograms.png, and clips.mp4, one after another."""
    import torch

    from model.evaluation.sheets import contact_sheet, one_after_another, spectrogram_sheet
    from model.media.encode import write_clip
    from model.networks.config import PRESETS
    from model.training.bounce import Bounce

    if preset not in PRESETS:
        raise end(USAGE, f"--preset must be one of {', '.join(PRESETS)}; got {preset}")
    clip = PRESETS[preset].clip
    clips = Bounce(clip, seed, "held_out" if held_out else "train").batch(torch.arange(count))
    try:
        out.mkdir(parents=True, exist_ok=True)
        contact_sheet(clips).save(out / "contact-sheet.png")
        spectrogram_sheet(clips, clip).save(out / "spectrograms.png")
        frames, sound = one_after_another(clips)
        write_clip(out / "clips.mp4", frames, clip.fps, sound, clip.sample_rate, f"bounce, seed {seed}, {count} clips")
    except OSError as error:
        raise end(FAILED, f"{out} cannot be written: {error.strerror or error}") from error
    typer.echo(f"wrote contact-sheet.png, spectrograms.png and clips.mp4 to {out}")
