"""`duet jobs`, `duet cancel`, `duet save`: list, stop and fetch the jobs of a server."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from duet.cli.clips import echo_saved
from duet.cli.exit_status import server_errors
from duet.cli.job_spec import KINDS
from duet.cli.options import CONNECTION, OUTPUT, OutputOptions, ServerOptions, option, within
from duet.cli.output import echo, echo_json
from duet.cli.output_files import OutputFiles
from duet.cli.progress import ProgressDisplay

if TYPE_CHECKING:
    from duet.client import Job

_STATUS = ("queued", "in_progress", "completed", "failed", "canceled")
_COLUMNS = ("id", "kind", "status", "done", "model", "seed", "created")


def jobs(
    ids: Annotated[list[str] | None, Parameter(name="ID", help="Only these jobs.")] = None,
    /,
    *,
    status: Annotated[str | None, option("Only jobs with this status.", choices=_STATUS)] = None,
    kind: Annotated[str | None, option("Only jobs of this kind.", choices=KINDS)] = None,
    limit: Annotated[int, option("Maximum number of jobs; default 20.", validator=within(1))] = 20,
    server: ServerOptions = CONNECTION,
) -> None:
    """List jobs, newest first."""
    with server_errors(), server.connect() as duet:
        found = [duet.job(each) for each in ids] if ids else duet.jobs(status, kind, limit)
    _print(found, server.json)


def cancel(
    ids: Annotated[list[str], Parameter(name="ID", help="The jobs.")], /, *, server: ServerOptions = CONNECTION
) -> None:
    """Cancel jobs: queued ones at once, running ones within a step."""
    stopped = []
    with server_errors(), server.connect() as duet:
        for each in ids:
            stopped.append(duet.job(each).cancel())
            if not server.json:
                echo(f"{each} {'is canceled' if stopped[-1].ended else 'will be stopped'}")
    if server.json:
        _print(stopped, as_json=True)


def save(
    job_id: Annotated[str, Parameter(name="ID", help="A job, as `duet jobs` lists it.")],
    /,
    *,
    output: OutputOptions = OUTPUT,
    server: ServerOptions = CONNECTION,
) -> None:
    """Save the clips of a job, after waiting for its end if necessary; prints their paths."""
    from duet.cli import remote_run

    with ProgressDisplay() as progress, server_errors(), server.connect() as duet:
        job = duet.job(job_id).wait(lambda news: remote_run.show(news, progress))
        files = OutputFiles.choose(output, f"{job.kind}-{job.seed}.mp4")
        saved = remote_run.save(job, tuple(clip.index for clip in job.outputs), files, progress)
    echo_saved(job.data, saved, server.json)


def _print(found: list[Job], as_json: bool) -> None:
    """A table in a terminal, tab-separated lines otherwise."""
    if as_json:
        echo_json([job.data for job in found])
    elif not sys.stdout.isatty():
        for job in found:
            echo("\t".join(_row(job, str(job.data["created_at"]))))
    else:
        from rich.console import Console
        from rich.table import Table

        table = Table(*_COLUMNS, box=None, pad_edge=False, header_style="bold")
        table.columns[0].no_wrap = True
        for job in found:
            table.add_row(*_row(job, _ago(str(job.data["created_at"]))))
        Console(highlight=False).print(table if found else "There are no such jobs.")


def _row(job: Job, created: str) -> tuple[str, ...]:
    return job.id, job.kind, job.status, f"{job.progress:.0%}", job.model, str(job.seed), created


def _ago(created_at: str) -> str:
    seconds = (datetime.now(UTC) - datetime.fromisoformat(created_at)).total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"
