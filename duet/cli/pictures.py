"""`duet picture`: what a clip looks and sounds like, on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import ExistingFile

from duet.cli.exit_status import FAILED, fail
from duet.cli.options import option
from duet.cli.output import echo

FORMATS = (".png", ".webp", ".jpg", ".jpeg")
"""What a picture's name may end in."""


def _writable(_: object, output: Path) -> None:
    if output.suffix.lower() not in FORMATS:
        raise ValueError(f"{output.name} must end in one of {', '.join(FORMATS)}.")


def picture(
    clip: Annotated[ExistingFile, Parameter(help="A video, a sound, or both, of any length.")],
    /,
    *,
    output: Annotated[
        Path,
        option("The picture to write: PNG, WebP or JPEG.", "--output", "-o", validator=_writable, show_default=True),
    ] = Path("sheet.png"),
) -> None:
    """Draw a contact sheet: the clip's frames over the spectrogram of its sound."""
    from model.media.pictures import contact_sheet
    from model.media.source import MediaError

    try:
        contact_sheet(clip).save(output, quality=90)
    except MediaError as error:
        raise fail(FAILED, f"{clip}: {error}") from error
    except OSError as error:
        raise fail(FAILED, f"{output} cannot be written: {error.strerror or error}") from error
    echo(f"wrote {output}")
