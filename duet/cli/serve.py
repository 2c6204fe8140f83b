"""Commands that run the services, together or one at a time, and that create a bucket or an API key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from duet.cli.exit_status import FAILED, fail
from duet.cli.options import option
from duet.cli.output import echo


def serve(
    *,
    host: Annotated[str | None, option("Address to listen on; default DUET_HOST, or 127.0.0.1.")] = None,
    port: Annotated[int | None, option("Port; default DUET_PORT, or 8000; 0 selects a free one.")] = None,
    data: Annotated[Path | None, option("Folder for jobs and results; default DUET_DATA, or ./data.")] = None,
) -> None:
    """Run Redis, a worker and the API on this machine. Ctrl-C stops them."""
    from duet.cli.startup_checks import check_machine
    from duet.standalone import stack
    from service.settings import load_settings

    given = {"host": host, "port": port, "data": data}
    settings = load_settings(**{name: value for name, value in given.items() if value is not None})
    check_machine(settings, computes=True)
    try:
        stack.serve(settings)
    except stack.CannotServe as error:
        raise fail(FAILED, str(error)) from error


def api(
    *,
    descriptor: Annotated[int | None, option("Serve on this inherited, listening socket.")] = None,
    number: Annotated[
        int | None, option("Number of this process among those on that socket, which share their metrics.")
    ] = None,
) -> None:
    """Run the HTTP API alone, on DUET_HOST and DUET_PORT."""
    import socket
    import threading

    from duet.cli.startup_checks import check_machine
    from service.app import create_app
    from service.hangup import on_hangup
    from service.log import configure_logging
    from service.metrics.sharing import share
    from service.server import Server, raise_open_files_limit, server_config
    from service.settings import load_settings

    settings = load_settings()
    check_machine(settings)
    if number is not None:
        share(settings.temporary / "metrics", number)
    configure_logging(settings)
    raise_open_files_limit()
    app = create_app(settings)
    on_hangup(lambda: threading.Thread(target=app.state.catalogue.reload, name="reload", daemon=True).start())
    sockets = None if descriptor is None else [socket.socket(fileno=descriptor)]
    Server(server_config(app, settings), app).run(sockets)


def worker() -> None:
    """Run a worker alone: it loads the models and processes the jobs of DUET_REDIS_URL."""
    from duet.cli.startup_checks import check_machine
    from service.settings import load_settings
    from workers.app import run

    settings = load_settings()
    check_machine(settings, computes=True)
    try:
        raise SystemExit(run(settings))
    except ValueError as error:
        # Imports torch, which must not be loaded before the worker has claimed its GPU.
        from model.checkpoint.loading import CheckpointError
        from workers.model_pool import ModelTooLarge

        if isinstance(error, ModelTooLarge):
            raise SystemExit(f"Duet cannot start.\n{error}") from error
        if not isinstance(error, CheckpointError):
            raise
        raise SystemExit(f"Duet cannot start.\nA model of DUET_MODELS cannot be loaded: {error}") from error


def webhooks(
    *, secret: Annotated[bool, option("Only print the secrets with which receivers verify signatures.")] = False
) -> None:
    """Run the webhook sender alone, for the jobs of DUET_REDIS_URL; several may run."""
    import asyncio

    from service.jobs.connection import StoreUnavailable
    from service.settings import load_settings
    from service.webhooks.dispatcher import run, secrets_of

    settings = load_settings()
    if not secret:
        raise SystemExit(run(settings))
    try:
        echo("\n".join(asyncio.run(secrets_of(settings))))
    except StoreUnavailable as error:
        raise fail(FAILED, f"The secret is stored in Redis, which does not answer: {error}") from error


def bucket() -> None:
    """Create the bucket of DUET_STORAGE unless it exists; waits for storage that is still starting."""
    import stamina

    from service.log import configure_logging, log
    from service.settings import load_settings
    from service.storage import StorageUnavailable, open_storage
    from service.storage.s3 import S3Storage

    settings = load_settings()
    configure_logging(settings)
    storage = open_storage(settings)
    if not isinstance(storage, S3Storage):
        log.info("results are stored in a folder: no bucket is needed", folder=settings.storage_url)
        return

    def create() -> bool:
        try:
            return storage.create()
        except StorageUnavailable as error:
            log.info("waiting for the storage", error=str(error))
            raise

    stamina.instrumentation.set_on_retry_hooks(())  # the line above says it
    again = stamina.retry(on=StorageUnavailable, attempts=None, timeout=120, wait_initial=0.5, wait_max=2)
    try:
        created = again(create)()
    except StorageUnavailable as error:
        raise fail(FAILED, f"The bucket of {settings.storage_url} cannot be created: {error}") from error
    log.info("created the bucket" if created else "the bucket exists", storage=settings.storage_url)


def key(
    name: Annotated[str, Parameter(help="The key's user: letters, digits, dots, hyphens, underscores.")], /
) -> None:
    """Create an API key: the key itself for its user, and the entry for DUET_API_KEYS."""
    from service.api.auth import new_key
    from service.settings import load_settings

    secret, digest = new_key()
    entry = f"{name}:{digest}"
    load_settings(api_keys=entry)  # refuses an invalid name
    echo(f"The key, shown only now:  {secret}")
    echo(f"Add to DUET_API_KEYS:     {entry}")
