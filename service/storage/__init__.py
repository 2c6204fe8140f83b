"""Object storage for uploads and results: a folder on this machine, or an S3 bucket."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from service.settings import Settings
from service.storage.folder import FolderStorage
from service.storage.protocol import ObjectInfo, ObjectNotFound, Storage, StorageFull, StorageUnavailable

__all__ = [
    "FolderStorage",
    "ObjectInfo",
    "ObjectNotFound",
    "Storage",
    "StorageFull",
    "StorageUnavailable",
    "open_storage",
]


def open_storage(settings: Settings) -> Storage:
    """The store that the settings name."""
    parts = urlsplit(settings.storage_url)
    if parts.scheme != "s3":
        return FolderStorage(Path(settings.storage_url))
    from service.storage.s3 import S3Storage  # boto3 takes a third of a second to import: only where it is used

    return S3Storage(parts.netloc, parts.path.strip("/"), settings)
