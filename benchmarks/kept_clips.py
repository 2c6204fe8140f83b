"""Folders in which benchmarks keep what they made, so that a run that was stopped goes on."""

from __future__ import annotations

import shlex
from pathlib import Path

FILE = "weights.txt"


def open_folder(folder: Path, weights: str) -> None:
    """Make the folder, and record the hash of the weights that its files were made with.

    Raises RuntimeError if it has files of other weights, or files and no record.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    if path.exists():
        known = path.read_text(encoding="utf-8").strip()
        if known != weights:
            raise RuntimeError(f"{folder} was made with the weights {known}, not with {weights}: use another folder")
    elif any(folder.iterdir()):
        raise RuntimeError(
            f"{folder} has files but no {FILE}, so they may have been made with other weights. Use another folder, or, "
            f"if you know that they were made with these, keep them: echo {weights} > {shlex.quote(str(path))}"
        )
    else:
        path.write_text(weights + "\n", encoding="utf-8")
