"""File systems of a given size that a test can fill. Only root may mount them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workers.disk_space import is_disk_full


class NotMounted(Exception):
    """This user may mount nothing."""


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A tmpfs of `size` bytes on `folder`, which is made. Raises NotMounted."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "duet-test", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        raise NotMounted("only root can mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path: Path) -> None:
    """Write the file `path` until its disk has no byte left."""
    with path.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(2**16))
            except OSError as error:
                if is_disk_full(error):
                    return
                raise
