"""The command that sends webhooks."""

from __future__ import annotations

from typing import Annotated

import typer


def webhooks(
    secret: Annotated[bool, typer.Option("--secret", help="Only show what receivers check signatures with.")] = False,
) -> None:
    """Run what sends webhooks alone, for the jobs of DUET_REDIS_URL; any number may run."""
    import asyncio

    from service.jobs.store import StoreUnavailable
    from service.settings import load_settings
    from service.webhooks.dispatcher import run, secrets_of

    settings = load_settings()
    if not secret:
        raise typer.Exit(run(settings))
    try:
        typer.echo("\n".join(asyncio.run(secrets_of(settings))))
    except StoreUnavailable as error:
        typer.echo(f"The secret is kept in Redis, which does not answer: {error}", err=True)
        raise typer.Exit(1) from error
