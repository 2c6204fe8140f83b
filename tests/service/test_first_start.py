from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from service.first_start import SECRETS, write_secrets
from service.settings import load_settings


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in SECRETS.values():
        monkeypatch.delenv(variable, raising=False)


def test_secrets_are_drawn_once_and_kept(tmp_path: Path) -> None:
    assert write_secrets(tmp_path) == list(SECRETS)
    drawn = {name: (tmp_path / name).read_text() for name in SECRETS}
    assert all(len(value) >= 40 for value in drawn.values())
    assert len(set(drawn.values())) == len(SECRETS)
    assert write_secrets(tmp_path) == []
    assert {name: (tmp_path / name).read_text() for name in SECRETS} == drawn


def test_two_stacks_have_different_secrets(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        write_secrets(tmp_path / name)
    assert (tmp_path / "one/duet_s3_secret_key").read_text() != (tmp_path / "other/duet_s3_secret_key").read_text()


def test_a_given_secret_is_written_also_over_a_drawn_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_secrets(tmp_path)
    monkeypatch.setenv("DUET_S3_SECRET_KEY", "given")
    assert write_secrets(tmp_path) == []
    assert (tmp_path / "duet_s3_secret_key").read_text() == "given"


def test_settings_read_the_folder_and_the_environment_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_secrets(tmp_path)
    monkeypatch.setenv("DUET_SECRETS", str(tmp_path))
    monkeypatch.setenv("DUET_S3_ACCESS_KEY", "duet")
    secret = load_settings().s3_secret_key
    assert secret is not None
    assert secret.get_secret_value() == (tmp_path / "duet_s3_secret_key").read_text()
    monkeypatch.setenv("DUET_S3_SECRET_KEY", "mine")
    secret = load_settings().s3_secret_key
    assert secret is not None
    assert secret.get_secret_value() == "mine"


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    run = subprocess.run([sys.executable, "-m", "service.first_start", missing], capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr == f"{missing}: No such file or directory\n"
