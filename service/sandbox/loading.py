"""What a child process loads before it restricts itself."""

from __future__ import annotations

import importlib
import pkgutil

import av


def load_decoder() -> None:
    """Import all modules of PyAV: once the process is restricted, no further module can be opened.
    Raises ImportError."""
    for module in pkgutil.walk_packages(av.__path__, "av."):
        if module.name not in ("av.__main__", "av.datasets"):
            importlib.import_module(module.name)
