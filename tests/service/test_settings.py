from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from service.app import create_app
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
        ("REMEMBER_ERASED", "0"),
        ("MAX_QUEUED", "0"),
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


HASH = "ab" * 32


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", []),
        (f"alice:{HASH}", ["alice"]),
        (f"alice:{HASH},bob:{HASH}", ["alice", "bob"]),
        (f" alice:{HASH}\n bob:{HASH}, ", ["alice", "bob"]),
    ],
)
def test_keys_are_written_in_one_line_or_in_several(text: str, names: list[str]) -> None:
    hashes = load_settings(api_keys=text).key_hashes
    assert [name for name, _ in hashes] == names
    assert {digest for _, digest in hashes} <= {bytes.fromhex(HASH)}


@pytest.mark.parametrize(
    "text", ["duet_the-key-itself", f":{HASH}", f"a b:{HASH}", "alice:abc", f"alice:{HASH.upper()}"]
)
def test_what_is_no_hash_of_a_key_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(SystemExit) as end:
        load_settings(api_keys=text)
    assert "DUET_API_KEYS" in str(end.value)
    assert text not in str(end.value)


def test_hashes_of_keys_are_not_shown() -> None:
    assert HASH not in repr(load_settings(api_keys=f"alice:{HASH}"))


@pytest.mark.parametrize(
    ("given", "starts"),
    [
        ({}, True),
        ({"host": "::1"}, True),
        ({"host": "127.8.0.1"}, True),
        ({"host": "localhost"}, True),
        ({"host": "0.0.0.0"}, False),
        ({"host": "::"}, False),
        ({"host": "192.168.1.7"}, False),
        ({"host": "duet.example"}, False),
        ({"host": "0.0.0.0", "published_on": "127.0.0.1"}, True),
        ({"host": "127.0.0.1", "published_on": "0.0.0.0"}, False),
        ({"host": "0.0.0.0", "api_keys": f"alice:{HASH}"}, True),
    ],
)
def test_without_keys_the_service_starts_for_this_machine_only(given: dict[str, str], starts: bool) -> None:
    settings = load_settings(**given)
    if starts:
        create_app(settings)
    else:
        with pytest.raises(SystemExit, match="DUET_API_KEYS is not set"):
            create_app(settings)
