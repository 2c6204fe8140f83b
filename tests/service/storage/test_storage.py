"""The same promises, kept by a folder, by an S3 server in this process, and by another that the environment names."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import subprocess
import threading
import uuid
from pathlib import Path

import boto3
import pytest
from pydantic import SecretStr

from service.settings import Settings, load_settings
from service.storage import FolderStorage, ObjectNotFound, Storage, StorageFull, StorageUnavailable, open_storage
from service.storage.protocol import CHUNK
from service.storage.s3 import S3Storage

DATA = random.Random(3).randbytes(3 * CHUNK + 17)


def s3_settings(endpoint: str, access_key: str = "access", secret_key: str = "secret", prefix: str = "") -> Settings:
    """Settings for a new bucket, which is made here."""
    bucket = f"duet-{uuid.uuid4().hex[:12]}"
    settings = load_settings(
        storage=f"s3://{bucket}/{prefix}", s3_endpoint=endpoint, s3_access_key=access_key, s3_secret_key=secret_key
    )
    keys = {"aws_access_key_id": access_key, "aws_secret_access_key": secret_key}
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys).create_bucket(Bucket=bucket)
    return settings


def named_server() -> tuple[str, str, str]:
    """Endpoint and keys of the S3 server that the environment names."""
    endpoint = os.environ.get("DUET_TEST_S3_ENDPOINT")
    if not endpoint:
        pytest.skip("DUET_TEST_S3_ENDPOINT is not set: no further S3 server here")
    return endpoint, os.environ["DUET_TEST_S3_ACCESS_KEY"], os.environ["DUET_TEST_S3_SECRET_KEY"]


@pytest.fixture(params=["folder", "moto", "moto with prefix", "named server"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "folder":
        return open_storage(Settings(storage=str(tmp_path / "storage")))
    if request.param == "named server":
        return open_storage(s3_settings(*named_server(), prefix="duet"))
    prefix = "team/duet" if request.param == "moto with prefix" else ""
    return open_storage(s3_settings(request.getfixturevalue("s3_endpoint"), prefix=prefix))


@pytest.fixture(params=["moto", "named server"])
def s3(request: pytest.FixtureRequest) -> S3Storage:
    server = named_server() if request.param == "named server" else (request.getfixturevalue("s3_endpoint"),)
    storage = open_storage(s3_settings(*server))
    assert isinstance(storage, S3Storage)
    return storage


def read(storage: Storage, key: str, start: int = 0, stop: int | None = None) -> bytes:
    return b"".join(storage.read(key, start, stop))


def test_what_was_put_comes_back(storage: Storage, tmp_path: Path) -> None:
    storage.check()
    source = tmp_path / "clip.mp4"
    source.write_bytes(DATA)
    storage.put_file("jobs/a/video.mp4", source, "video/mp4")
    storage.put_bytes("jobs/a/manifest.json", b"{}", "application/json")
    assert read(storage, "jobs/a/video.mp4") == DATA
    assert read(storage, "jobs/a/manifest.json") == b"{}"
    assert storage.info("jobs/a/video.mp4").size == len(DATA)
    storage.download("jobs/a/video.mp4", tmp_path / "again.mp4")
    assert (tmp_path / "again.mp4").read_bytes() == DATA


def test_a_large_file_comes_back_whole(storage: Storage, tmp_path: Path) -> None:
    """Large enough that boto3 takes it in parts."""
    source = tmp_path / "large.mov"
    source.write_bytes(random.Random(4).randbytes(2**20) * 20)
    storage.put_file("jobs/a/input.mov", source, "video/quicktime")
    digest = hashlib.sha256()
    for piece in storage.read("jobs/a/input.mov"):
        digest.update(piece)
    assert digest.digest() == hashlib.sha256(source.read_bytes()).digest()


def test_an_empty_object_is_an_object(storage: Storage) -> None:
    storage.put_bytes("jobs/a/empty", b"", "application/octet-stream")
    assert storage.info("jobs/a/empty").size == 0
    assert read(storage, "jobs/a/empty", 0, 0) == b""


@pytest.mark.parametrize(
    ("start", "stop"),
    [(0, 1), (0, len(DATA)), (5, 5), (1000, 2000), (len(DATA) - 1, len(DATA)), (CHUNK - 1, CHUNK + 1), (7, None)],
)
def test_any_part_can_be_read(storage: Storage, start: int, stop: int | None) -> None:
    storage.put_bytes("jobs/a/video.mp4", DATA, "video/mp4")
    assert read(storage, "jobs/a/video.mp4", start, stop) == DATA[start:stop]


def test_the_etag_changes_with_the_contents(storage: Storage) -> None:
    storage.put_bytes("a", b"one", "text/plain")
    first = storage.info("a").etag
    assert storage.info("a").etag == first
    storage.put_bytes("a", b"two", "text/plain")
    assert storage.info("a").etag != first
    assert '"' not in first


def test_a_missing_object_is_not_found(storage: Storage, tmp_path: Path) -> None:
    for ask in (
        lambda: storage.info("jobs/a/video.mp4"),
        lambda: storage.read("jobs/a/video.mp4"),
        lambda: storage.download("jobs/a/video.mp4", tmp_path / "x"),
    ):
        with pytest.raises(ObjectNotFound):
            ask()
    assert storage.list("jobs/a/") == []
    storage.delete_prefix("jobs/a/")


def test_erasing_a_job_leaves_its_neighbours(storage: Storage) -> None:
    for key in ("jobs/1/input.mp4", "jobs/1/attempt-1/video.mp4", "jobs/12/video.mp4"):
        storage.put_bytes(key, b"x", "video/mp4")
    assert storage.list("jobs/1/") == ["jobs/1/attempt-1/video.mp4", "jobs/1/input.mp4"]
    storage.delete_prefix("jobs/1/")
    assert storage.list("jobs/1/") == []
    assert storage.list("jobs/12/") == ["jobs/12/video.mp4"]


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "../x", "a/../../x", "a/./b", "a//b", "a/", ".hidden", "a\\b", "a\0b", "a\nb", "é"]
)
def test_no_key_escapes_the_store(storage: Storage, key: str) -> None:
    for use in (
        lambda: storage.put_bytes(key, b"x", "text/plain"),
        lambda: storage.info(key),
        lambda: storage.read(key, 0, 1),
        lambda: storage.delete_prefix(f"{key}/"),
    ):
        with pytest.raises(ValueError, match="not a storage key"):
            use()


def test_a_prefix_without_its_slash_is_refused(storage: Storage) -> None:
    with pytest.raises(ValueError, match="ends with a slash"):
        storage.delete_prefix("jobs/1")


def test_a_folder_never_shows_half_an_object(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    contents = (b"a" * 2**20, b"b" * 2**20)
    storage.put_bytes("x", contents[0], "text/plain")
    stop = threading.Event()

    def keep_writing() -> None:
        while not stop.is_set():
            for content in contents:
                storage.put_bytes("x", content, "text/plain")

    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        seen = {read(storage, "x") for _ in range(100)}
    finally:
        stop.set()
        writer.join()
    assert seen <= set(contents)


def test_a_full_disk_has_its_own_error_and_leaves_nothing(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "duet-test", small]).returncode:
        pytest.skip("only root can mount the small disk that this needs")
    try:
        storage = FolderStorage(small)
        with pytest.raises(StorageFull):
            storage.put_bytes("jobs/a/video.mp4", bytes(2**21), "video/mp4")
        assert storage.list("jobs/a/") == []
        assert not any(path.is_file() for path in small.rglob("*"))
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_file_in_place_of_the_folder_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageUnavailable) as refused:
        FolderStorage(tmp_path / "file").check()
    assert isinstance(refused.value.__cause__, OSError)
    assert refused.value.__cause__.errno in (errno.EEXIST, errno.ENOTDIR)


def test_a_read_error_in_an_open_object_is_an_outage(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("/proc/self/mem")  # can be opened; reading address 0 is EIO
    pieces = FolderStorage(tmp_path).read("a")
    with pytest.raises(StorageUnavailable) as failed:
        next(pieces)
    assert isinstance(failed.value.__cause__, OSError)
    assert failed.value.__cause__.errno == errno.EIO


def test_wrong_keys_are_an_outage_not_a_missing_file() -> None:
    endpoint, access_key, secret_key = named_server()
    settings = s3_settings(endpoint, access_key, secret_key)
    storage = open_storage(settings.model_copy(update={"s3_secret_key": SecretStr("wrong")}))
    with pytest.raises(StorageUnavailable):
        storage.check()
    with pytest.raises(StorageUnavailable):
        storage.info("jobs/a/video.mp4")


def test_a_bucket_that_is_not_there_is_an_outage(s3_endpoint: str) -> None:
    settings = load_settings(
        storage="s3://nobodys-bucket", s3_endpoint=s3_endpoint, s3_access_key="access", s3_secret_key="secret"
    )
    with pytest.raises(StorageUnavailable):
        open_storage(settings).check()
    with pytest.raises(StorageUnavailable):
        open_storage(settings).put_bytes("a", b"x", "text/plain")


def test_a_server_that_does_not_answer_is_unavailable() -> None:
    storage = open_storage(
        load_settings(storage="s3://clips", s3_endpoint="http://127.0.0.1:9", s3_access_key="a", s3_secret_key="b")
    )
    with pytest.raises(StorageUnavailable):
        storage.check()
    with pytest.raises(StorageUnavailable):
        storage.put_bytes("a", b"x", "text/plain")


def test_a_folder_that_is_erased_under_a_write_is_an_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = FolderStorage(tmp_path)
    monkeypatch.setattr("os.fsync", lambda _: shutil.rmtree(tmp_path / "jobs"))
    with pytest.raises(StorageUnavailable, match="erased meanwhile"):
        storage.put_bytes("jobs/a/video.mp4", b"frames", "video/mp4")
