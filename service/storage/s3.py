"""Objects in an S3 bucket, below a prefix, through boto3."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from service.settings import Settings
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

_TRANSFER = TransferConfig(max_concurrency=4)
DATA_TIMEOUT_S = 15
"""Seconds without a byte while an object is written or read; a server may take some to store a large one."""

_MISSING = {"404", "NoSuchKey"}
_FULL = {"507", "InsufficientStorage", "XMinioStorageFull", "QuotaExceeded"}


class S3Storage:
    """`prefix` may be empty; the bucket must exist."""

    def __init__(self, bucket: str, prefix: str, settings: Settings) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._client = _client(settings, read_timeout=DATA_TIMEOUT_S, attempts=2)
        self._lookups = _client(settings, read_timeout=4, attempts=2)
        """For requests that a server answers at once, without data."""
        self._probe = _client(settings, read_timeout=2, attempts=1)

    def check(self) -> None:
        try:
            with _failures(self._bucket):
                self._probe.head_bucket(Bucket=self._bucket)
        except ObjectNotFound as error:
            raise StorageRefused(f"bucket {self._bucket}: there is no such bucket") from error

    def create(self) -> bool:
        """Create the bucket; False if it exists. Raises StorageUnavailable."""
        region = self._client.meta.region_name
        # Amazon's first region must not be named.
        place = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        with _failures(self._bucket):
            try:
                self._client.head_bucket(Bucket=self._bucket)
                return False
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") not in _MISSING | {"NoSuchBucket"}:
                    raise
            try:
                self._client.create_bucket(Bucket=self._bucket, **place)
            except self._client.exceptions.BucketAlreadyOwnedByYou:
                return False  # another process has just created it
        return True

    def put_file(self, key: str, path: Path, content_type: str) -> None:
        # In one request, which S3 accepts up to 5 GiB: some servers do not support multipart uploads.
        with path.open("rb") as file:
            self._put(key, file, content_type)

    def put_bytes(self, key: str, data: bytes, content_type: str) -> None:
        self._put(key, data, content_type)

    def info(self, key: str) -> ObjectInfo:
        with _failures(key):
            head = self._lookups.head_object(Bucket=self._bucket, Key=self._name(key))
        return ObjectInfo(key, head["ContentLength"], head["ETag"].strip('"'))

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        if stop is not None and stop <= start:
            return iter(())
        part = {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"} if start or stop is not None else {}
        with _failures(key):
            body = self._client.get_object(Bucket=self._bucket, Key=self._name(key), **part)["Body"]
        return _pieces(key, body)

    def download(self, key: str, path: Path) -> None:
        with _failures(key):
            self._client.download_file(self._bucket, self._name(key), str(path), Config=_TRANSFER)

    def list(self, prefix: str) -> list[str]:
        pages = self._lookups.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix + check_prefix(prefix)
        )
        with _failures(prefix):
            return sorted(item["Key"].removeprefix(self._prefix) for page in pages for item in page.get("Contents", ()))

    def delete_prefix(self, prefix: str) -> None:
        # One by one: a job has few objects, and servers disagree about the checksum of bulk deletes.
        for key in self.list(prefix):
            with _failures(key):
                self._lookups.delete_object(Bucket=self._bucket, Key=self._name(key))

    def _put(self, key: str, body: bytes | IO[bytes], content_type: str) -> None:
        with _failures(key):
            self._client.put_object(Bucket=self._bucket, Key=self._name(key), Body=body, ContentType=content_type)

    def _name(self, key: str) -> str:
        return self._prefix + check_key(key)


def _client(settings: Settings, read_timeout: int, attempts: int) -> Any:
    """`read_timeout`: seconds without a byte."""
    secret = settings.s3_secret_key
    return boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path" if settings.s3_path_style else "virtual"},
            # Newer checksums are sent only where S3 demands them: many servers do not know them.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            connect_timeout=2,
            read_timeout=read_timeout,
            retries={"mode": "standard", "total_max_attempts": attempts},
            max_pool_connections=32,
        ),
    )


def _pieces(key: str, body: Any) -> Iterator[bytes]:
    with _failures(key), contextlib.closing(body):
        yield from body.iter_chunks(CHUNK)


@contextlib.contextmanager
def _failures(what: str) -> Iterator[None]:
    """Translate errors of boto3."""
    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code in _MISSING:
            raise ObjectNotFound(what) from error
        if code in _FULL:
            raise StorageFull(f"{what}: {error}") from error
        refused = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500) < 500
        raise (StorageRefused if refused else StorageUnavailable)(f"{what}: {error}") from error
    except (BotoCoreError, Boto3Error) as error:
        raise StorageUnavailable(f"{what}: {error}") from error
