"""A folder of files as pieces of at most 15 MiB with an index, for machines that return only a few small files.

The pieces are a tar stream. Their names change with the content and the index is replaced last, so a process killed
while it packs leaves the earlier content readable.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

from model.training.checkpoints import FORMAT, PIECE_BYTES, StateError, join_pieces, write_atomically

INDEX = "packed.json"
"""Lists the pieces with their digests."""

MAX_FILES = 8
"""Most files of a packed folder, the index included."""


def pack(root: Path, folder: Path) -> list[Path]:
    """Replace the content of the packed `folder` by all files under `root`. Returns the files written.

    Raises StateError if that needs more than MAX_FILES files.
    """
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            archive.add(path, path.relative_to(root).as_posix())
    data = stream.getvalue()
    pieces = [data[start : start + PIECE_BYTES] for start in range(0, len(data), PIECE_BYTES)]
    if len(pieces) + 1 > MAX_FILES:
        raise StateError(f"{root} has {len(data)} bytes, more than {MAX_FILES - 1} pieces of {PIECE_BYTES}")
    content = hashlib.sha256(data).hexdigest()
    digests: dict[str, str] = {}
    for number, piece in enumerate(pieces):
        name = f"{content[:8]}-{number:03d}.bin"
        write_atomically(folder / name, lambda file, piece=piece: file.write(piece))
        digests[name] = hashlib.sha256(piece).hexdigest()
    index = json.dumps({"format": FORMAT, "pieces": digests}, indent=2) + "\n"
    write_atomically(folder / INDEX, lambda file: file.write(index.encode()))
    for old in folder.glob("*-[0-9][0-9][0-9].bin"):
        if old.name not in digests:
            old.unlink()
    return [*(folder / name for name in digests), folder / INDEX]


def unpack(folder: Path, root: Path) -> None:
    """Write the files of the packed `folder` to `root`. Raises StateError if a piece is missing or changed."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        data = join_pieces(folder, index["pieces"])
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            archive.extractall(root, filter="data")
    except OSError as error:
        raise StateError(f"{error.filename or folder}: {error.strerror or error}") from error
    except (ValueError, KeyError, tarfile.TarError) as error:
        raise StateError(f"{folder} holds no packed run: {error}") from error


def is_packed(folder: Path) -> bool:
    """Whether `folder` holds the result of a run."""
    return (folder / INDEX).exists()
