"""`duet doctor`: is everything here that Duet needs, and what is to be mended."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from duet.cli.failures import FAILED


def doctor(
    url: Annotated[
        str | None,
        typer.Option(envvar="DUET_URL", metavar="URL", show_default=False, help="The server that should answer."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Look at this installation: packages, device, memory, models, Redis, storage, server; say what to mend.

    Exit status 0 if all that is needed is well, 1 otherwise. Takes some seconds, never more than two minutes.
    """
    from duet.doctor import examine

    findings = examine(url)
    well = all(finding.ok for finding in findings)
    if as_json:
        typer.echo(json.dumps({"ok": well, "checks": [asdict(each) for each in findings]}, indent=2))
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            mark = typer.style("ok  ", fg="green") if finding.ok else typer.style("MEND", fg="red", bold=True)
            typer.echo(f"{mark} {finding.name:<{width}}  {finding.says}")
            if finding.mend:
                typer.echo(f"{'':{5 + width}}  → {finding.mend}")
        typer.echo("All that is needed is well." if well else "Something is to be mended.")
    raise typer.Exit(0 if well else FAILED)
