"""Objects as files below one folder."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from service.storage.protocol import (
    CHUNK,
    ObjectInfo,
    ObjectNotFound,
    StorageFull,
    StorageRefused,
    StorageUnavailable,
    check_key,
    check_prefix,
)

_PARTIAL = ".partial-"


class FolderStorage:
    """Objects as files below one folder, which the first write creates."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()

    def check(self) -> None:
        with _failures("the storage folder"):
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folder) as file:
                file.write(b"\0")

    def put_file(self, key: str, path: Path, content_type: str) -> None:
        with path.open("rb") as source:
            self._put(key, source)

    def put_bytes(self, key: str, data: bytes, content_type: str) -> None:
        self._put(key, io.BytesIO(data))

    def info(self, key: str) -> ObjectInfo:
        with _failures(key):
            status = self._path(key).stat()
        # An object is written once and renamed into place, so its time and size change with its contents.
        return ObjectInfo(key, status.st_size, f"{status.st_mtime_ns:x}-{status.st_size:x}")

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        with _failures(key):
            file = self._path(key).open("rb")
            file.seek(start)
        return _pieces(key, file, None if stop is None else stop - start)

    def download(self, key: str, path: Path) -> None:
        with _failures(key):
            shutil.copyfile(self._path(key), path)

    def list(self, prefix: str) -> list[str]:
        folder = self._folder / check_prefix(prefix)
        with _failures(prefix):
            files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(_PARTIAL))
            return sorted(path.relative_to(self._folder).as_posix() for path in files)

    def delete_prefix(self, prefix: str) -> None:
        folder = self._folder / check_prefix(prefix)
        with _failures(prefix), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)

    def _path(self, key: str) -> Path:
        return self._folder / check_key(key)

    def _put(self, key: str, source: IO[bytes]) -> None:
        """Write to a temporary file, flush it, rename it: the object is complete or absent, also after a crash."""
        path = self._path(key)
        with _failures(key):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                _write_whole(path, source)
            except FileNotFoundError as error:
                raise StorageRefused(f"{key}: its folder was erased meanwhile") from error


def _write_whole(path: Path, source: IO[bytes]) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_PARTIAL)
    try:
        with os.fdopen(handle, "wb") as file:
            shutil.copyfileobj(source, file, CHUNK)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        flush(path.parent)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):  # renamed already, or erased with its folder
            os.unlink(temporary)
        raise


def _pieces(key: str, file: IO[bytes], left: int | None) -> Iterator[bytes]:
    with _failures(key), file:
        while piece := file.read(CHUNK if left is None else min(CHUNK, left)):
            left = None if left is None else left - len(piece)
            yield piece


def flush(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _failures(what: str) -> Iterator[None]:
    """Translate errors of the file system."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise ObjectNotFound(what) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"{what}: {error.strerror}") from error
        raise StorageUnavailable(f"{what}: {error.strerror}") from error
