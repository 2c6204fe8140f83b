"""The marks by which the Makefile chooses test files: it searches their text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

CHOSEN = ("slow", "timed")
HIDDEN = pytest.StashKey[list[str]]()
"""What `hidden` found among the collected tests."""


def hidden(items: Iterable[pytest.Item]) -> list[str]:
    """Tests that have one of these marks in a file whose text does not: no target of the Makefile would run them."""
    return [
        f"{item.nodeid} is marked {name}, and {item.path.name} lacks mark.{name}: no target of the Makefile runs it"
        for item in items
        for name in CHOSEN
        if item.get_closest_marker(name) is not None and not _has(item.path, name)
    ]


@cache
def _has(path: Path, name: str) -> bool:
    return re.search(rf"mark\.{name}\b", path.read_text(encoding="utf-8")) is not None
