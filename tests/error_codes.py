"""The codes of all errors that the API and the workers can give, found in the source."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
_POSITION = {"Problem": 1, "ProbeError": 0, "refuse": 0, "CannotBeMade": 0, "JobError": 0}
"""The argument that is the code, by the name of what is called."""

_FORMATTED = {"job_": ("job_failed", "job_canceled"), "no_": ("no_video_track", "no_audio_track")}
"""The codes that an f-string with this beginning makes."""


def error_codes() -> set[str]:
    """Every code."""
    codes = {"not_found", "method_not_allowed", "http_error"}  # by the status of a framework's error
    for path in (*ROOT.glob("service/**/*.py"), *ROOT.glob("workers/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                position = _POSITION.get(name, len(node.args))
                codes.update(_values(node.args[position]) if position < len(node.args) else ())
    return codes


def _values(code: ast.expr) -> tuple[str, ...]:
    """The codes that the argument can be; none if it is passed on from elsewhere."""
    if isinstance(code, ast.Constant) and isinstance(code.value, str):
        return (code.value,)
    if isinstance(code, ast.JoinedStr) and isinstance(code.values[0], ast.Constant):
        return _FORMATTED[str(code.values[0].value)]
    return ()
