"""The command line. Each command imports what it needs when it runs: `duet --help` loads neither torch nor the API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.settings import load_settings

app = typer.Typer(
    name="duet",
    help="Joint audio-video diffusion as a service.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; default 127.0.0.1 or DUET_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; default 8000 or DUET_PORT; 0 takes a free one.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder for jobs and results; default ./data or DUET_DATA.")] = None,
) -> None:
    """Run everything on this machine: Redis, worker and API. Ctrl-C stops it."""
    from service import local

    given = {"host": host, "port": port, "data": data}
    settings = load_settings(**{name: value for name, value in given.items() if value is not None})
    try:
        local.serve(settings)
    except local.CannotServe as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error


@app.command()
def api(
    descriptor: Annotated[int | None, typer.Option(help="Serve on this inherited, listening socket.")] = None,
) -> None:
    """Run the HTTP API alone, on DUET_HOST and DUET_PORT."""
    import socket

    import uvicorn

    settings = load_settings()
    config = uvicorn.Config(
        "service.app:create_app",
        factory=True,
        host=settings.host,
        port=settings.port,
        log_config=None,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=5,
    )
    sockets = None if descriptor is None else [socket.socket(fileno=descriptor)]
    uvicorn.Server(config).run(sockets)


@app.command()
def worker() -> None:
    """Run a worker alone: it loads the models and works on the jobs of DUET_REDIS_URL."""
    from workers.app import run

    raise typer.Exit(run(load_settings()))


@app.command()
def key(
    name: Annotated[str, typer.Argument(help="Whose key it is: letters, digits, dots, hyphens, underscores.")],
) -> None:
    """Make an API key: the key itself for its user, and what DUET_API_KEYS needs to know of it."""
    from service.api.auth import new_key

    secret, digest = new_key()
    entry = f"{name}:{digest}"
    load_settings(api_keys=entry)  # refuses a name that cannot be used
    typer.echo(f"The key, shown this once:  {secret}")
    typer.echo(f"Add to DUET_API_KEYS:      {entry}")


@app.command()
def picture(
    clip: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A video with sound.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture to write (PNG).")] = Path("sheet.png"),
) -> None:
    """Draw a contact sheet: the clip's frames over the spectrogram of its sound."""
    from model.media import MediaError
    from model.pictures import contact_sheet

    try:
        contact_sheet(clip).save(output)
    except MediaError as error:
        typer.echo(f"{clip}: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"wrote {output}")


@app.command()
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
    from model.checkpoint import CheckpointError
    from model.config import ClipSpec, ConfigError
    from model.convert import UNKNOWN_LICENCE, Conversion
    from model.convert import convert as run

    name = name or base.stem.lower()
    folder = out or Path("models") / name
    clip = ClipSpec(frames=frames, fps=fps, height=size, width=size, sample_rate=sample_rate)
    options = Conversion(clip=clip, infer=infer, licence=licence or UNKNOWN_LICENCE, mirrored=mirrored)
    try:
        manifest = run(base, sr, name, folder, options)
    except (CheckpointError, ConfigError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    height, width = manifest.config.output_size
    typer.echo(f"wrote {folder}: {clip.frames} frames of {height}×{width}, licence: {manifest.licence}")
    typer.echo(f"serve it: DUET_MODELS={folder.parent} duet serve")


@app.command()
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
    from model.calibration import calibrate_model
    from model.checkpoint import CheckpointError
    from model.manifest import ManifestError

    def report(done: int, path: Path, problem: str | None) -> None:
        typer.echo(f"left out {path}: {problem}" if problem else f"{done} {path}", err=bool(problem))

    try:
        used = calibrate_model(model, clips, count, points, device, report)
    except (CheckpointError, ManifestError, ValueError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    typer.echo(f"calibrated {model} on {used} clips; jobs of this model use pigdm from now on")


if __name__ == "__main__":
    app()
