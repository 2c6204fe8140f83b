"""`duet doctor`: check this installation."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from rich.console import Console
from rich.text import Text

from duet.cli.exit_status import FAILED
from duet.cli.options import option
from duet.cli.output import echo, echo_json


def doctor(
    *,
    url: Annotated[str | None, option("A server to check.", env_var="DUET_URL", metavar="URL")] = None,
    json: Annotated[bool, option("Print the findings as JSON.")] = False,
) -> None:
    """Check packages, device, memory, models, Redis, storage and server; explains how to fix problems.

    Exit status 0 if everything required works, otherwise 1. Takes some seconds, at most two minutes.
    """
    from duet.doctor import examine

    findings = examine(url)
    well = all(finding.ok for finding in findings)
    if json:
        echo_json({"ok": well, "checks": [asdict(each) for each in findings]})
    else:
        width = max(len(finding.name) for finding in findings)
        console = Console(highlight=False, soft_wrap=True)
        for finding in findings:
            mark = Text("ok ", "green") if finding.ok else Text("FIX", "bold red")
            console.print(Text.assemble(mark, f" {finding.name:<{width}}  {finding.says}"))
            if finding.mend:
                console.print(Text(f"{'':{4 + width}}  → {finding.mend}"))
        echo("Everything required works." if well else "Some checks failed.")
    raise SystemExit(0 if well else FAILED)
