from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from service.settings import Settings, load_settings


def test_the_defaults_serve_this_machine_only_and_keep_a_week() -> None:
    settings = Settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.retention == timedelta(days=7)
    assert settings.max_upload_bytes == 200 * 2**20
    assert settings.storage_url == "data/storage"


def test_the_environment_sets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PORT": "9000", "RETENTION": "12h", "STORAGE": "s3://clips/duet", "DATA": "/srv/duet"}.items():
        monkeypatch.setenv(f"DUET_{name}", value)
    settings = load_settings()
    assert settings.port == 9000
    assert settings.retention == timedelta(hours=12)
    assert settings.storage_url == "s3://clips/duet"
    assert settings.temporary == Path("/srv/duet/tmp")


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("90", timedelta(seconds=90)),
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("12h", timedelta(hours=12)),
        ("7d", timedelta(days=7)),
    ],
)
def test_durations_are_written_as_people_write_them(text: str, duration: timedelta) -> None:
    assert load_settings(retention=text).retention == duration


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "eighty"),
        ("PORT", "70000"),
        ("REDIS_URL", "http://localhost"),
        ("STORAGE", "ftp://somewhere/x"),
        ("STORAGE", "s3:///prefix"),
        ("S3_ENDPOINT", "localhost:9000"),
        ("RETENTION", "soon"),
        ("RETENTION", "0"),
        ("LOG_FORMAT", "xml"),
        ("MAX_UPLOAD_MIB", "0"),
    ],
)
def test_a_bad_value_ends_the_process_and_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"DUET_{name}", value)
    with pytest.raises(SystemExit) as end:
        load_settings()
    assert f"DUET_{name} is {value!r}" in str(end.value)


def test_every_setting_says_what_it_is() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_the_secret_key_is_not_shown() -> None:
    assert "hush" not in repr(load_settings(s3_secret_key="hush"))
