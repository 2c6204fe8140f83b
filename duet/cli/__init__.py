"""The command line. Each command imports what it needs when it runs: `duet --help` loads neither torch nor the API."""

from __future__ import annotations

from typing import Annotated

import typer

from duet.cli import (
    data,
    doctor,
    evaluating,
    jobs,
    making,
    models,
    pictures,
    plan,
    serving,
    training,
    webhooks,
    weights,
)
from service.version import version

app = typer.Typer(
    name="duet",
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"duet {version()}")
        raise typer.Exit


@app.callback(no_args_is_help=True)
def duet(
    _: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """Joint audio-video diffusion as a service."""


_COMMANDS = {
    "Making": (making.generate, making.v2a, making.a2v),
    "At a server": (jobs.jobs, jobs.save, jobs.cancel, models.models),
    "Serving": (
        serving.serve,
        serving.api,
        serving.worker,
        webhooks.webhooks,
        serving.bucket,
        serving.key,
        doctor.doctor,
        plan.plan,
    ),
    "Models and pictures": (pictures.picture, weights.convert, weights.calibrate),
    "Training": (training.train, evaluating.evaluate),
}
"""By the heading that `duet --help` shows them under. A command is named for its function."""

for _heading, _functions in _COMMANDS.items():
    for _function in _functions:
        app.command(rich_help_panel=_heading)(_function)

app.add_typer(data.app, rich_help_panel="Training")
