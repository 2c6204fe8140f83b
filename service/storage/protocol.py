"""The interface of object stores, and their keys.

A key is a relative path (`jobs/job_01…/attempt-1/video.mp4`). An object appears whole or not at all and never changes
afterwards. Every store raises the same exceptions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

CHUNK = 64 * 1024
"""Bytes read or written at a time. The API keeps as much for each client that reads slowly."""

_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


class ObjectNotFound(LookupError):
    """No object under this key."""


class StorageUnavailable(Exception):
    """The store does not answer, fails, or refuses the call."""


class StorageRefused(StorageUnavailable):
    """The store answered, and refused this call."""


class StorageFull(StorageRefused):
    """No space is left in the store."""


@dataclass(frozen=True)
class ObjectInfo:
    """`size` in bytes; `etag` without quotes, different for different contents."""

    key: str
    size: int
    etag: str


class Storage(Protocol):
    """An object store. Every method raises StorageUnavailable, methods that write StorageFull, methods that read
    ObjectNotFound; ValueError for an invalid key."""

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
        """Erase everything under `prefix`, which ends with a slash. If nothing is there, nothing happens."""


def check_key(key: str) -> str:
    """Return a valid key: plain names joined by slashes, none begins with a dot, so it cannot leave the store."""
    if not _KEY.fullmatch(key):
        raise ValueError(f"not a storage key: {key!r}")
    return key


def check_prefix(prefix: str) -> str:
    """Return a valid prefix: a key and a slash, so that `jobs/1/` does not match `jobs/12/`."""
    if not prefix.endswith("/"):
        raise ValueError(f"a prefix ends with a slash: {prefix!r}")
    check_key(prefix[:-1])
    return prefix
