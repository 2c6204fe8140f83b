"""Object storage for uploads and results: a folder on this machine, or an S3 bucket."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from service.settings import Settings
from service.storage.breaker import Breaker, GuardedStorage
from service.storage.folder import FolderStorage
from service.storage.protocol import (
    ObjectInfo,
    ObjectNotFound,
    Storage,
    StorageFull,
    StorageRefused,
    StorageUnavailable,
)

__all__ = [
    "Breaker",
    "FolderStorage",
    "GuardedStorage",
    "ObjectInfo",
    "ObjectNotFound",
    "Storage",
    "StorageFull",
    "StorageRefused",
    "StorageUnavailable",
    "open_storage",
]


def open_storage(settings: Settings) -> Storage:
    """The store of DUET_STORAGE."""
    parts = urlsplit(settings.storage_url)
    if parts.scheme != "s3":
        return FolderStorage(Path(settings.storage_url))
    from service.storage.s3 import S3Storage  # importing boto3 takes a third of a second

    return S3Storage(parts.netloc, parts.path.strip("/"), settings)
