"""`duet data`: what a training set holds, before hours are spent on it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from duet.cli.failures import FAILED, end
from duet.cli.preview import preview

app = typer.Typer(name="data", help="Look at training data.", no_args_is_help=True)


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="A folder of videos.")],
    config: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="The training configuration; default: the paper's.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The report as JSON on standard output.")] = False,
) -> None:
    """Decode every video under FOLDER and say which of them training would use, and why not the others.

    Ends with 1 if none can be used.
    """
    from model.training.configuration import ConfigurationError, read_configuration
    from model.training.survey import survey, survey_table

    try:
        settings = read_configuration(config) if config else None
    except ConfigurationError as error:
        raise end(FAILED, str(error)) from error
    found = survey(folder, settings.model.clip, settings.model.base.modalities) if settings else survey(folder)
    if as_json:
        typer.echo(json.dumps([asdict(file) for file in found], indent=2, default=str))
    else:
        typer.echo(survey_table(found))
    if not any(file.problem is None for file in found):
        raise typer.Exit(FAILED)


app.command()(preview)
