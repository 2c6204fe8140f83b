"""The version of Duet."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed


def version() -> str:
    """The installed version; "0" in a source tree that was never installed."""
    try:
        return installed("duet-av")
    except PackageNotFoundError:
        return "0"
