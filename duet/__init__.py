"""Duet from Python: `from duet import Duet, AsyncDuet`.

The client is imported on first use, so that `python -m duet` starts without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from duet.client import AsyncDuet as AsyncDuet
    from duet.client import Duet as Duet

__all__ = ["AsyncDuet", "Duet"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import duet.client

    return getattr(duet.client, name)
