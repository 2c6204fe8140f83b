"""Folders in which benchmarks keep what they made, so that a run that was stopped goes on."""

from __future__ import annotations

from pathlib import Path

FILE = "weights.txt"


def open_folder(folder: Path, weights: str) -> None:
    """Make the folder, and write down the hash of the weights that it belongs to.

    Raises RuntimeError if what it has is of other weights, or nobody knows of which.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    if path.exists():
        known = path.read_text(encoding="utf-8").strip()
        if known != weights:
            raise RuntimeError(f"{folder} was made with the weights {known}, not with {weights}: use another folder")
    elif any(folder.iterdir()):
        raise RuntimeError(f"{folder} does not say in {FILE} which weights it was made with: use another folder")
    else:
        path.write_text(weights + "\n", encoding="utf-8")
