"""Exit statuses of the commands, and the messages on standard error that go with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from duet.cli.output import echo

FAILED = 1
"""The job failed, or its clip cannot be made or written."""
USAGE = 2
"""The command line is wrong."""
UNREACHABLE = 3
"""The server cannot be reached."""
REFUSED = 4
"""The server refuses the request."""
INTERRUPTED = 130
"""Ctrl-C: 128 plus the number of the signal, as in a shell."""


def fail(status: int, message: str) -> SystemExit:
    """Print the message on standard error; raise the result to end the command."""
    echo(message, err=True)
    return SystemExit(status)


def usage_error(option: str, message: str) -> SystemExit:
    """A wrong value of `option`, for what the parser cannot check; raise the result."""
    return fail(USAGE, f"Invalid value for {option}: {message}.")


@contextmanager
def server_errors() -> Iterator[None]:
    """Turn exceptions of the client into the exit statuses of docs/cli.md."""
    from duet.client import DuetError

    try:
        yield
    except (DuetError, OSError) as error:
        raise fail(*_explain(error)) from error


@contextmanager
def evaluation_errors() -> Iterator[None]:
    """Turn exceptions of an evaluation into exit statuses: 2 for a wrong request, 1 for what fails by itself."""
    from model.checkpoint.loading import CheckpointError
    from model.evaluation.generation import EvaluationError
    from model.request import RequestError

    try:
        yield
    except (EvaluationError, RequestError) as error:
        raise fail(USAGE, str(error)) from error
    except (CheckpointError, MemoryError) as error:
        raise fail(FAILED, str(error)) from error
    except OSError as error:
        raise fail(FAILED, f"{error.filename or 'a file'} cannot be written: {error.strerror or error}") from error


def _explain(error: Exception) -> tuple[int, str]:
    """Exit status and message."""
    from duet.client import Refused, ServerUnreachable

    if isinstance(error, ServerUnreachable):
        hint = "Start a server with `duet serve`, or select another one with --url or DUET_URL."
        return UNREACHABLE, f"{error}\n{hint}"
    if isinstance(error, Refused):
        request = f"\n  request {error.request_id}" if error.request_id else ""
        hint = "\nSet an API key of this server with --key or DUET_KEY." if error.status == 401 else ""
        return REFUSED, f"The server refused the request: {error}{request}{hint}"
    if isinstance(error, OSError):
        return FAILED, f"{error.filename or 'the file'}: {error.strerror or error}"
    return FAILED, str(error)
