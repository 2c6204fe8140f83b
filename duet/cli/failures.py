"""How commands end: with an exit status, and in words on standard error where it is not 0."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

FAILED = 1
"""The job failed, or its clip cannot be made or written."""
USAGE = 2
"""The command line is wrong."""
UNREACHABLE = 3
"""No server answers."""
REFUSED = 4
"""The server says no."""
INTERRUPTED = 130
"""Ctrl-C; as shells have it, 128 and the number of the signal."""


def end(status: int, text: str) -> typer.Exit:
    """Say it on standard error; raise what this returns."""
    typer.echo(text, err=True)
    return typer.Exit(status)


@contextmanager
def failures() -> Iterator[None]:
    """Around whatever talks to a server: its exceptions end the command as the table in docs/cli.md has it."""
    from duet.client import DuetError, Refused, ServerUnreachable

    try:
        yield
    except ServerUnreachable as error:
        raise end(UNREACHABLE, f"{error}\nStart one with `duet serve`, name another with --url or DUET_URL.") from error
    except Refused as error:
        hint = "\nIts operator gives out keys: --key or DUET_KEY." if error.status == 401 else ""
        request = f"\n  request {error.request_id}" if error.request_id else ""
        raise end(REFUSED, f"The server says no: {error}{request}{hint}") from error
    except DuetError as error:
        raise end(FAILED, str(error)) from error
    except OSError as error:
        raise end(FAILED, f"{error.filename or 'the file'}: {error.strerror or error}") from error
