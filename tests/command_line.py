"""`duet` in this process, for what needs no process of its own."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest.mock import patch

from duet.cli import app


@dataclass(frozen=True)
class Ended:
    """A command that has ended: its exit status and what it printed."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


def invoke(arguments: Sequence[str], env: Mapping[str, str] | None = None) -> Ended:
    """Run `duet` with these arguments, and `env` added to the environment; both streams are pipes to it.

    A text that ends the command (`SystemExit("…")`) is written to standard error, with status 1, as Python does.
    """
    out, err = io.StringIO(), io.StringIO()
    status = 0
    with patch.dict(os.environ, env or {}), redirect_stdout(out), redirect_stderr(err):
        try:
            app(arguments)
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
            if isinstance(ended.code, str):
                err.write(f"{ended.code}\n")
    return Ended(status, out.getvalue(), err.getvalue())
