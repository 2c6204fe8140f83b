"""Where uploads and results are kept: a folder here, or an S3 bucket (`service.s3`). Both keep the same promises.

A key is a relative path (`jobs/job_01…/attempt-1/video.mp4`). An object appears whole or not at all, and is never
changed afterwards. What the store cannot do raises one of three exceptions, whatever is below it.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol
from urllib.parse import urlsplit

from service.settings import Settings

CHUNK = 256 * 1024
"""Bytes handed on at a time."""

_PARTIAL = ".partial-"
_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


class ObjectNotFound(LookupError):
    """No object under this key."""


class StorageUnavailable(Exception):
    """The store does not answer, or refuses us."""


class StorageFull(StorageUnavailable):
    """No space is left in the store."""


@dataclass(frozen=True)
class ObjectInfo:
    """`size` in bytes; `etag` without quotes, another one for other contents."""

    key: str
    size: int
    etag: str


class Storage(Protocol):
    """What a store can do. Every method raises StorageUnavailable, those that write StorageFull, those that read
    ObjectNotFound; ValueError for a key that is none."""

    def check(self) -> None:
        """Return if the store can be used now."""

    def put_file(self, key: str, path: Path, content_type: str) -> None:
        """Store a copy of the file at `path`."""

    def put_bytes(self, key: str, data: bytes, content_type: str) -> None: ...

    def info(self, key: str) -> ObjectInfo: ...

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Bytes `start` … `stop` − 1, piece by piece. The object is opened before this returns."""

    def download(self, key: str, path: Path) -> None:
        """Write the object to the file `path`."""

    def list(self, prefix: str) -> list[str]:
        """Keys under `prefix`, which ends with a slash, sorted."""

    def delete_prefix(self, prefix: str) -> None:
        """Erase everything under `prefix`, which ends with a slash. Nothing there is no error."""


def open_storage(settings: Settings) -> Storage:
    """The store that the settings name."""
    parts = urlsplit(settings.storage_url)
    if parts.scheme != "s3":
        return FolderStorage(Path(settings.storage_url))
    from service.s3 import S3Storage  # boto3 takes a third of a second to import: only where it is used

    return S3Storage(parts.netloc, parts.path.strip("/"), settings)


def check_key(key: str) -> str:
    """The key, if it is one: plain names joined by slashes, none begins with a dot. So it cannot leave the store."""
    if not _KEY.fullmatch(key):
        raise ValueError(f"not a storage key: {key!r}")
    return key


def check_prefix(prefix: str) -> str:
    """The prefix, if it is a key with a slash behind: `jobs/1/` must not match `jobs/12/`."""
    if not prefix.endswith("/"):
        raise ValueError(f"a prefix ends with a slash: {prefix!r}")
    check_key(prefix[:-1])
    return prefix


class FolderStorage:
    """Objects as files below one folder, which is made when something is stored first."""

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
        # An object is written once and renamed into place: its time and size change when its contents do.
        return ObjectInfo(key, status.st_size, f"{status.st_mtime_ns:x}-{status.st_size:x}")

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        with _failures(key):
            file = self._path(key).open("rb")
            file.seek(start)
        return _pieces(file, None if stop is None else stop - start)

    def download(self, key: str, path: Path) -> None:
        with _failures(key):
            shutil.copyfile(self._path(key), path)

    def list(self, prefix: str) -> list[str]:
        folder = self._folder / check_prefix(prefix)
        files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(_PARTIAL))
        return sorted(path.relative_to(self._folder).as_posix() for path in files)

    def delete_prefix(self, prefix: str) -> None:
        folder = self._folder / check_prefix(prefix)
        with _failures(prefix), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)

    def _path(self, key: str) -> Path:
        return self._folder / check_key(key)

    def _put(self, key: str, source: IO[bytes]) -> None:
        """Write beside the final place, flush to disk, rename: the object is there whole or not, also after a crash."""
        path = self._path(key)
        with _failures(key):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                _write_whole(path, source)
            except FileNotFoundError as error:
                raise StorageUnavailable(f"{key}: its folder was erased meanwhile") from error


def _write_whole(path: Path, source: IO[bytes]) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_PARTIAL)
    try:
        with os.fdopen(handle, "wb") as file:
            shutil.copyfileobj(source, file, CHUNK)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):  # renamed already, or erased with its folder
            os.unlink(temporary)
        raise


def _pieces(file: IO[bytes], left: int | None) -> Iterator[bytes]:
    with file:
        while piece := file.read(CHUNK if left is None else min(CHUNK, left)):
            left = None if left is None else left - len(piece)
            yield piece


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _failures(what: str) -> Iterator[None]:
    """Turn what the file system says into our exceptions."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise ObjectNotFound(what) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"{what}: {error.strerror}") from error
        raise StorageUnavailable(f"{what}: {error.strerror}") from error
