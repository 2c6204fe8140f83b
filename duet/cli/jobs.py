"""`duet jobs`, `duet cancel`, `duet save`: what became of jobs at a server, and what can still be done about them."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duet.cli.dataclass_options import expanded
from duet.cli.destination import Destination
from duet.cli.failures import failures
from duet.cli.options import At, Result, one_of
from duet.cli.progress import Shown

if TYPE_CHECKING:
    from duet.client import Job

_STATUS = ("queued", "in_progress", "completed", "failed", "canceled")
_KINDS = ("generate", "v2a", "a2v")
_COLUMNS = ("id", "kind", "status", "done", "model", "seed", "created")

_Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", show_default=False, help="Only these jobs.")]
_Id = Annotated[str, typer.Argument(metavar="ID", show_default=False, help="Of a job, as `duet jobs` prints it.")]


@expanded
def jobs(
    at: At,
    ids: _Ids = None,
    status: Annotated[
        str | None, typer.Option(help="Only jobs in this state.", show_default=False, **one_of(_STATUS))
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="Only jobs of this kind.", show_default=False, **one_of(_KINDS))
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
) -> None:
    """List jobs, the newest first."""
    with failures(), at.connect() as duet:
        found = [duet.job(each) for each in ids] if ids else duet.jobs(status, kind, limit)
    _print(found, at.json)


@expanded
def cancel(at: At, ids: Annotated[list[str], typer.Argument(metavar="ID...", show_default=False)]) -> None:
    """Stop jobs: one that waits at once, one that runs within a step."""
    stopped = []
    with failures(), at.connect() as duet:
        for each in ids:
            stopped.append(duet.job(each).cancel())
            if not at.json:
                said = "is canceled" if stopped[-1].ended else "will be stopped"
                typer.echo(f"{each} {said}")
    if at.json:
        _print(stopped, as_json=True)


@expanded
def save(job_id: _Id, result: Result, at: At) -> None:
    """Wait for a job if need be, and write its clips; prints where they are."""
    from duet.cli import remote

    with Shown() as shown, failures(), at.connect() as duet:
        job = duet.job(job_id).wait(lambda news: remote.show(news, shown))
        default = f"{job.kind}-{job.seed}.mp4"
        destination = Destination.choose(result.output, default, result.all_files, result.force)
        saved = remote.save(job, tuple(output.index for output in job.outputs), destination, shown)
    if at.json:
        typer.echo(_text(job.data | {"saved": [str(path) for path in saved]}))
    else:
        for path in saved:
            typer.echo(path)


def _print(found: list[Job], as_json: bool) -> None:
    """A table in a terminal; where it is piped, lines of fields with tabs between them."""
    if as_json:
        typer.echo(_text([job.data for job in found]))
    elif not sys.stdout.isatty():
        for job in found:
            typer.echo("\t".join(_row(job, str(job.data["created_at"]))))
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


def _text(data: Any) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False)
