"""`duet picture`: what a clip looks and sounds like, on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

FORMATS = (".png", ".webp", ".jpg", ".jpeg")
"""What a picture's name may end in."""


def _writable(output: Path) -> Path:
    if output.suffix.lower() not in FORMATS:
        raise typer.BadParameter(f"{output.name} must end in one of {', '.join(FORMATS)}")
    return output


def picture(
    clip: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="A video, a sound, or both, of any length.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", callback=_writable, help="The picture to write: PNG, WebP or JPEG.")
    ] = Path("sheet.png"),
) -> None:
    """Draw a contact sheet: the clip's frames over the spectrogram of its sound."""
    from model.media.pictures import contact_sheet
    from model.media.source import MediaError

    try:
        contact_sheet(clip).save(output, quality=90)
    except MediaError as error:
        typer.echo(f"{clip}: {error}", err=True)
        raise typer.Exit(1) from error
    except OSError as error:
        typer.echo(f"{output} cannot be written: {error.strerror or error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"wrote {output}")
