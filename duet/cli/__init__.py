"""The command line. A command imports its dependencies when it runs: `duet --help` loads neither torch nor the API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cyclopts import App, CycloptsError, Group, Parameter
from rich.console import Console
from rich.text import Text

from duet.cli import (
    clips,
    data,
    doctor,
    edit,
    evaluate,
    jobs,
    mcp,
    memorisation,
    models,
    pictures,
    plan,
    serve,
    study,
    train,
    tune,
    verify,
    weights,
)
from service.version import version


def _usage_error(error: CycloptsError) -> Text:
    command = " ".join(["duet", *(error.command_chain or ())])
    return Text(f"{error}\nSee `{command} --help`.")


app = App(
    name="duet",
    help="Joint audio-video diffusion as a service.",
    help_format="plaintext",
    version=lambda: f"duet {version()}",
    version_flags=("--version",),
    default_parameter=Parameter(negative=(), show_default=False),
    error_console=Console(stderr=True, soft_wrap=True, highlight=False),
    error_formatter=_usage_error,
)

app["--help"].group = app["--version"].group = Group("Options", sort_key=-1)

_COMMANDS: dict[str, tuple[Callable[..., Any] | App, ...]] = {
    "Make clips": (clips.generate, clips.v2a, clips.a2v, edit.edit),
    "Use a server": (jobs.jobs, jobs.save, jobs.cancel, models.models, mcp.mcp),
    "Run a server": (
        serve.serve,
        serve.api,
        serve.worker,
        serve.webhooks,
        serve.bucket,
        serve.key,
        doctor.doctor,
        plan.plan,
    ),
    "Models and pictures": (pictures.picture, verify.verify, weights.convert, weights.calibrate, tune.tune),
    "Train models": (train.train, evaluate.evaluate, memorisation.memorisation, study.app, data.app),
}
"""Commands by their heading in `duet --help`. A command is named after its function."""

for _place, (_heading, _commands) in enumerate(_COMMANDS.items()):
    _group = Group(_heading, sort_key=_place)
    for _command in _commands:
        if isinstance(_command, App):
            _command.group = _group
            app.command(_command)
        else:
            app.command(_command, group=_group)
