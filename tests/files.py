"""What lies in a folder."""

from __future__ import annotations

import os
from pathlib import Path


def files_in(*folders: Path) -> list[Path]:
    """The files in the folders and all theirs, sorted by their paths.

    Others may be erasing some meanwhile: `Path.rglob` fails when a folder goes away under it.
    """
    walks = (step for folder in folders for step in os.walk(folder))
    return sorted(Path(folder, name) for folder, _, names in walks for name in names)
