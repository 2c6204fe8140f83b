"""What commands print."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

PIPED_WIDTH = 160
"""Line length of tables in characters without a terminal, where lines need not be broken."""


def echo(text: object = "", *, err: bool = False) -> None:
    """Print a line. Ends the command (exit status 1) if the reader has gone away, as in `duet jobs | head -1`."""
    stream = sys.stderr if err else sys.stdout
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # or Python complains when it flushes at exit
        raise SystemExit(1) from error


def table_console() -> Console:
    """Where tables are printed: as wide as the terminal, or PIPED_WIDTH without one."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=PIPED_WIDTH)


def echo_json(data: Any) -> None:
    """Print one JSON document."""
    echo(json.dumps(data, indent=2, ensure_ascii=False, default=str))
