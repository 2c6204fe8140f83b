"""Commands that serve: the embedded stack, its parts alone, and keys for its users."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on; default 127.0.0.1 or DUET_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; default 8000 or DUET_PORT; 0 takes a free one.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder for jobs and results; default ./data or DUET_DATA.")] = None,
) -> None:
    """Run everything on this machine: Redis, worker and API. Ctrl-C stops it."""
    from duet.cli.checks import check_machine
    from duet.standalone import stack as local
    from service.settings import load_settings

    given = {"host": host, "port": port, "data": data}
    settings = load_settings(**{name: value for name, value in given.items() if value is not None})
    check_machine(settings, computes=True)
    try:
        local.serve(settings)
    except local.CannotServe as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error


def api(
    descriptor: Annotated[int | None, typer.Option(help="Serve on this inherited, listening socket.")] = None,
    number: Annotated[
        int | None, typer.Option(help="Which of several it is on that socket: they count together.")
    ] = None,
) -> None:
    """Run the HTTP API alone, on DUET_HOST and DUET_PORT."""
    import socket

    import uvicorn

    from duet.cli.checks import check_machine
    from service.app import create_app
    from service.log import configure_logging
    from service.metrics.sharing import share
    from service.server import Server
    from service.settings import load_settings

    settings = load_settings()
    check_machine(settings)
    if number is not None:
        share(settings.temporary / "metrics", number)
    configure_logging(settings)
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=5,
    )
    sockets = None if descriptor is None else [socket.socket(fileno=descriptor)]
    Server(config, app).run(sockets)


def worker() -> None:
    """Run a worker alone: it loads the models and works on the jobs of DUET_REDIS_URL."""
    from duet.cli.checks import check_machine
    from service.settings import load_settings
    from workers.app import run

    settings = load_settings()
    check_machine(settings, computes=True)
    try:
        raise typer.Exit(run(settings))
    except ValueError as error:
        from model.checkpoint.loading import (
            CheckpointError,  # loads torch, which must not come before the worker has its GPU
        )

        if not isinstance(error, CheckpointError):
            raise
        raise SystemExit(f"Duet cannot start.\nA model of DUET_MODELS cannot be loaded: {error}") from error


def bucket() -> None:
    """Make the bucket of DUET_STORAGE unless it is there; wait for a store that is still starting. May be repeated."""
    import time

    from service.log import configure_logging, log
    from service.settings import load_settings
    from service.storage import StorageUnavailable, open_storage
    from service.storage.s3 import S3Storage

    settings = load_settings()
    configure_logging(settings)
    storage = open_storage(settings)
    if not isinstance(storage, S3Storage):
        log.info("results are kept in a folder: no bucket is needed", folder=settings.storage_url)
        return
    deadline = time.monotonic() + 120
    while True:
        try:
            made = storage.create()
            break
        except StorageUnavailable as error:
            if time.monotonic() > deadline:
                typer.echo(f"The bucket of {settings.storage_url} cannot be made: {error}", err=True)
                raise typer.Exit(1) from error
            log.info("waiting for the store", error=str(error))
            time.sleep(1)
    log.info("the bucket was made" if made else "the bucket is there", storage=settings.storage_url)


def key(
    name: Annotated[str, typer.Argument(help="Whose key it is: letters, digits, dots, hyphens, underscores.")],
) -> None:
    """Make an API key: the key itself for its user, and what DUET_API_KEYS needs to know of it."""
    from service.api.auth import new_key
    from service.settings import load_settings

    secret, digest = new_key()
    entry = f"{name}:{digest}"
    load_settings(api_keys=entry)  # refuses a name that cannot be used
    typer.echo(f"The key, shown this once:  {secret}")
    typer.echo(f"Add to DUET_API_KEYS:      {entry}")
