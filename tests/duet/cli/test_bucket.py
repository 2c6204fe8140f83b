"""`duet bucket` creates the bucket of DUET_STORAGE, and may be repeated."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

from service.settings import Settings
from service.storage import open_storage
from tests.duet.cli.conftest import Cli
from tests.waiting import until


def store_at(endpoint: str) -> dict[str, str]:
    return {"s3_endpoint": endpoint, "s3_access_key": "anyone", "s3_secret_key": "anything"}


def cli(folder: Path, endpoint: str, **settings: str) -> Cli:
    return Cli(folder, **{f"DUET_{name.upper()}": value for name, value in (store_at(endpoint) | settings).items()})


def test_the_bucket_is_created_once(s3_endpoint: str, tmp_path: Path) -> None:
    duet = cli(tmp_path, s3_endpoint, storage="s3://made-by-bucket/prefix")
    first, second = duet("bucket"), duet("bucket")
    assert (first.returncode, second.returncode) == (0, 0)
    assert "created the bucket" in first.stderr
    assert "the bucket exists" in second.stderr
    open_storage(Settings(storage="s3://made-by-bucket/prefix", **store_at(s3_endpoint))).check()  # type: ignore[arg-type]


def test_the_bucket_is_created_in_the_configured_region(s3_endpoint: str, tmp_path: Path) -> None:
    made = cli(tmp_path, s3_endpoint, storage="s3://made-in-frankfurt", s3_region="eu-central-1")("bucket")
    assert made.returncode == 0, made.stderr


def test_waits_for_storage_that_is_still_starting(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path / "log"
    with log.open("wb") as file:
        waiting = cli(tmp_path, f"http://127.0.0.1:{port}", storage="s3://later").start("bucket", stderr=file.fileno())
    until(lambda: "waiting for the storage" in log.read_text(), "it says what it waits for", 30)
    assert waiting.poll() is None


def test_a_folder_needs_no_bucket(tmp_path: Path) -> None:
    answer: subprocess.CompletedProcess[str] = Cli(tmp_path, DUET_STORAGE=str(tmp_path / "storage"))("bucket")
    assert answer.returncode == 0
    assert "no bucket is needed" in answer.stderr
