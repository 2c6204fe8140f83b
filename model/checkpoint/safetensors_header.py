"""The header of a safetensors file, read without torch: names and shapes of the tensors, and whether the file is whole.

Format: 8 bytes with the length of the header (little-endian), the header in JSON, the data. The header gives every
tensor's `shape` and its `data_offsets`, counted from the end of the header; they cover the data without a gap.
https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
import os
from pathlib import Path

LONGEST_HEADER = 100_000_000
"""Bytes, as in the format's own library."""


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in the file. Raises ValueError if it is not a safetensors file or not complete, OSError
    if it cannot be read."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > LONGEST_HEADER:
            raise ValueError("not a safetensors file")
        if size < 8 + length:
            raise ValueError(f"incomplete: {size} bytes, fewer than its header has")
        header = file.read(length)
    try:
        entries = json.loads(header)
        entries.pop("__metadata__", None)
        shapes = {name: tuple(int(extent) for extent in entry["shape"]) for name, entry in entries.items()}
        end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise ValueError("not a safetensors file: its header cannot be read") from error
    if size != 8 + length + end:
        what = "incomplete" if size < 8 + length + end else "damaged"
        raise ValueError(f"{what}: {size} bytes instead of {8 + length + end}")
    return shapes
