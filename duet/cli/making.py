"""`duet generate`, `duet v2a`, `duet a2v`: a clip from a command line, by a server or in this process."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from duet.cli.dataclass_options import expanded
from duet.cli.destination import Destination
from duet.cli.failures import FAILED, INTERRUPTED, USAGE, end, failures
from duet.cli.options import At, Given, Handling, NewFrames, Result, Sampling, chosen
from duet.cli.progress import Shown
from duet.cli.replay import Order, read_order

_Source = Annotated[Path, typer.Argument(exists=True, dir_okay=False, readable=True, show_default=False)]
_Original = Annotated[
    Path | None,
    typer.Argument(
        exists=True,
        dir_okay=False,
        readable=True,
        show_default=False,
        help="With --from: the file that the clip was made from, if any.",
    ),
]
_Manifest = Annotated[
    Path | None,
    typer.Option(
        "--from",
        exists=True,
        dir_okay=False,
        show_default=False,
        help="Make the clip of this manifest.json again, of any kind.",
        rich_help_panel="What is made",
    ),
]


@expanded
def generate(
    sampling: Sampling,
    new_frames: NewFrames,
    result: Result,
    at: At,
    handling: Handling,
    file: _Original = None,
    manifest: _Manifest = None,
) -> None:
    """Make a sounding video from nothing; prints where it is."""
    params = chosen(sampling, new_frames)
    if manifest is None:
        if file is not None:
            raise typer.BadParameter("a file is for v2a and a2v, or goes with --from", param_hint="FILE")
        _make(Order("generate", params), "generate-{seed}.mp4", result, at, handling)
        return
    if params:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in params)
        raise typer.BadParameter(f"the manifest has all parameters: leave out {names}", param_hint="--from")
    order = read_order(manifest, file)
    stem = file.stem if file else "generate"
    _make(order, f"{stem}-{order.kind}-{order.params['seed']}.mp4", result, at, handling)


@expanded
def v2a(file: _Source, sampling: Sampling, given: Given, result: Result, at: At, handling: Handling) -> None:
    """Make a sound for a video: your own frames under a new sound; prints where it is."""
    _make(Order("v2a", chosen(sampling, given), file), f"{file.stem}-v2a.mp4", result, at, handling)


@expanded
def a2v(
    file: _Source,
    sampling: Sampling,
    new_frames: NewFrames,
    given: Given,
    result: Result,
    at: At,
    handling: Handling,
) -> None:
    """Make a video for a sound, or for the sound of a video; prints where it is."""
    _make(Order("a2v", chosen(sampling, new_frames, given), file), f"{file.stem}-a2v.mp4", result, at, handling)


def _make(order: Order, default: str, result: Result, at: At, handling: Handling) -> None:
    """Have the clips made and written; print their paths, or the job as JSON. `default` names the file where the user
    has not."""
    further = handling.params()
    if handling.local and further:
        raise typer.BadParameter(f"{', '.join(further)}: only a server has a use for it", param_hint="--local")
    destination = Destination.choose(result.output, default, result.all_files, result.force)
    if "seed" in order.params:
        destination = destination.for_seed(order.params["seed"])
    destination.check(len(order.indices))
    with Shown() as shown, failures():
        if handling.local:
            job, saved = _here(order, destination, shown)
        else:
            job, saved = _there(replace(order, params=order.params | further), destination, at, shown)
    if at.json:
        _print_json(job, saved)
    else:
        for path in saved:
            typer.echo(path)


def _print_json(job: dict[str, Any], saved: list[Path]) -> None:
    typer.echo(json.dumps(job | {"saved": [str(path) for path in saved]}, indent=2, ensure_ascii=False))


def _there(order: Order, destination: Destination, at: At, shown: Shown) -> tuple[dict[str, Any], list[Path]]:
    """Have a server make it."""
    from duet.cli import remote

    try:
        with at.connect() as duet:
            return remote.make(duet, order, destination, shown)
    except remote.NotMade as error:
        if at.json:
            _print_json(error.job, [])
        raise end(FAILED, str(error)) from error


def _here(order: Order, destination: Destination, shown: Shown) -> tuple[dict[str, Any], list[Path]]:
    """Make it in this process."""
    from duet.cli import local_job as ordered
    from service.settings import load_settings

    settings = load_settings()
    try:
        job, manifest = ordered.job_of(order, settings)
        destination = destination.for_seed(job.params.seed)
        if not manifest.trained:
            shown.say(f"The model {manifest.name} is untrained: the clip will be noise.")
        shown.phase("loading")
        from duet.cli import inprocess  # torch

        return inprocess.make(order, job, manifest, settings, destination, shown)
    except ordered.NotAsAllowed as error:
        raise end(USAGE, str(error)) from error
    except ordered.CannotMake as error:
        raise end(FAILED, str(error)) from error
    except KeyboardInterrupt as error:
        raise end(INTERRUPTED, "Interrupted: nothing is written.") from error
