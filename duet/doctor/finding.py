"""The result of a check."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """Result of one check. `ok` is false if something required is missing or broken; `mend` says how to fix or improve
    it."""

    name: str
    ok: bool
    says: str
    mend: str | None = None
