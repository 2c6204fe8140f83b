from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from service.app import create_app
from service.settings import Settings, load_settings
from tests.command_line import invoke


def test_the_defaults_serve_this_machine_only_and_keep_a_week() -> None:
    settings = Settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.retention == timedelta(days=7)
    assert settings.max_upload_bytes == 200 * 2**20
    assert settings.storage_url == "data/storage"


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PORT": "9000", "RETENTION": "12h", "STORAGE": "s3://clips/duet", "DATA": "/srv/duet"}.items():
        monkeypatch.setenv(f"DUET_{name}", value)
    settings = load_settings()
    assert settings.port == 9000
    assert settings.retention == timedelta(hours=12)
    assert settings.storage_url == "s3://clips/duet"
    assert settings.temporary == Path("/srv/duet/duet-tmp/files")


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
def test_durations_have_units(text: str, duration: timedelta) -> None:
    assert load_settings(retention=text).retention == duration


BAD = {
    "redis_url": ["http://localhost", "redis://", "redis://127.0.0.1:port/0", "redis://127.0.0.1/first", "unix://"],
    "broker_url": ["redis://127.0.0.1", "amqp:///vhost", "amqp://127.0.0.1:port//", "rabbit.example"],
    "data": [],
    "storage": ["ftp://somewhere/x", "s3:///prefix"],
    "s3_endpoint": ["localhost:9000", "http://", "http://objects:port"],
    "s3_region": ["", "us east"],
    "s3_access_key": [],
    "s3_secret_key": [],
    "s3_path_style": ["perhaps"],
    "secrets": ["/nowhere", "/etc/hostname"],
    "models": [],
    "default_model": [""],
    "device": ["tpu", "cuda:first", "gpu"],
    "dtype": ["int8"],
    "threads": ["-1", "many", "5000"],
    "buckets": ["0", "1;2", "1,2,", "5000"],
    "host": ["", "http://127.0.0.1", "127.0.0.1 "],
    "port": ["eighty", "70000", "-1", "80.5"],
    "published_on": ["http://duet.example", "a b"],
    "api_keys": ["secret"],
    "provenance": ["perhaps"],
    "provenance_certificate": ["/nowhere"],
    "provenance_key": ["/nowhere"],
    "provenance_command": [],
    "provenance_tsa": ["timestamp.example"],
    "signal_mark": ["maybe"],
    "signal_mark_key": [],
    "provenance_trust": ["/nowhere"],
    "max_requests_per_minute": ["0"],
    "max_queued_per_key": ["0"],
    "max_queued": ["0", "1e3x"],
    "max_wait_s": ["-1", "inf", "nan"],
    "max_sync_s": ["-1", "3601", "nan"],
    "max_event_streams": ["0"],
    "max_event_streams_per_key": ["0"],
    "public_url": [
        "duet.example",
        "https://duet.example/?q",
        "https://duet.example:port",
        "https://me:hush@duet.example",
    ],
    "root_path": ["duet", "//evil", "/a//b", "/../x", "/a/./b", "/a b", "/ä", "/jobs", "https://a/x", "/a?b"],
    "trusted_proxies": ["proxy.example", "10.0.0.0/99", "127.0.0.1, *", "10.0.0.1/8"],
    "cors_origins": [
        *("app.example", "https://app.example/x", "ftp://a", "null", "*, https://a", "https://a b:c"),
        *("https://a:65536", "https://a..b", "https://.a", "https://.", "https://me@a", "https://" + "a" * 255),
    ],
    "webhook_secret": ["hush", "whsec_short"],
    "webhook_allow_private": ["perhaps"],
    "webhook_timeout": ["0", "61", "nan"],
    "webhook_retries": ["5s soon", "999999999999d"],
    "max_upload_mib": ["0", "100000"],
    "max_uploads_per_key": ["0"],
    "min_upload_rate": ["-1"],
    "disk_reserve_mib": ["-1"],
    "keep_alive_s": ["0", "4000"],
    "header_timeout_s": ["0", "601"],
    "max_connections_per_address": ["-1"],
    "max_duration_s": ["0", "inf"],
    "max_output_s": ["0", "601", "nan"],
    "max_width": ["8"],
    "max_height": ["8"],
    "retention": ["soon", "0", "-1", "999999999999999d", "40000d"],
    "remember_erased": ["0"],
    "lease": ["0", "inf"],
    "slots": ["-1"],
    "api_processes": ["0", "65"],
    "workers": ["0", "65"],
    "gpu_locks": [],
    "workers_per_gpu": ["0", "17"],
    "ageing": ["0s"],
    "model_patience": ["0", "a while"],
    "model_memory": ["0", "-1", "much", "8 elephants"],
    "admin_keys": ["a:b", "a/b"],
    "step_deadline": ["0m", "an hour"],
    "job_deadline": ["0h"],
    "grace": ["-1s", "later"],
    "log_format": ["xml"],
    "log_level": ["loud"],
    "metrics_port": ["70000"],
    "metrics_host": ["", "http://127.0.0.1"],
    "otlp_endpoint": ["collector:4318"],
}
"""Values that each setting refuses by itself. A setting without any is checked against the machine or other settings,
below."""


def test_bad_values_cover_every_setting() -> None:
    assert set(BAD) == set(Settings.model_fields)
    on_the_machine = {"data", "provenance_command", "models", "gpu_locks", "s3_access_key", "s3_secret_key"}
    assert {name for name, values in BAD.items() if not values} == on_the_machine | {"signal_mark_key"}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_a_bad_value_stops_the_process_and_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variable = f"DUET_{name.upper()}"
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as end:
        load_settings()
    first, sentence = str(end.value).splitlines()
    assert first == "Duet cannot start."
    if name in ("api_keys", "broker_url", "webhook_secret"):
        assert sentence.startswith(f"{variable} is not valid: ")
        assert value not in sentence
    else:
        assert sentence.startswith(f"{variable} is {value.replace('me:hush', '…').replace('me@', '…@')!r}: ")


def test_a_password_in_a_url_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUET_REDIS_URL", "http://me:hush@redis.example")
    with pytest.raises(SystemExit) as end:
        load_settings()
    assert "DUET_REDIS_URL is 'http://…@redis.example'" in str(end.value)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"s3_access_key": "me"}, ["DUET_S3_ACCESS_KEY", "DUET_S3_SECRET_KEY"]),
        ({"s3_secret_key": "hush"}, ["DUET_S3_ACCESS_KEY", "DUET_S3_SECRET_KEY"]),
        ({"step_deadline": "2h", "job_deadline": "1h"}, ["DUET_STEP_DEADLINE", "DUET_JOB_DEADLINE"]),
        ({"device": "cuda:1", "gpu_locks": "/gpus"}, ["DUET_DEVICE", "DUET_GPU_LOCKS"]),
        ({"max_queued": 10, "max_queued_per_key": 20}, ["DUET_MAX_QUEUED_PER_KEY", "DUET_MAX_QUEUED"]),
    ],
)
def test_settings_that_contradict_each_other_are_named(given: dict[str, Any], names: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        load_settings(**given)
    assert all(name in str(end.value) for name in names)
    assert "hush" not in str(end.value)


def test_all_errors_are_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PORT": "eighty", "RETENTION": "soon", "REDIS_ULR": "redis://localhost"}.items():
        monkeypatch.setenv(f"DUET_{name}", value)
    with pytest.raises(SystemExit) as end:
        load_settings()
    assert str(end.value).splitlines()[1:] == [
        "DUET_REDIS_ULR is not a setting; DUET_REDIS_URL is",
        "DUET_PORT is 'eighty': Input should be a valid integer, unable to parse string as an integer",
        "DUET_RETENTION is 'soon': Input should be a valid timedelta, invalid digit in duration",
    ]


@pytest.mark.parametrize("name", ["DUET_URL", "DUET_KEY", "DUET_TEST_S3_ENDPOINT", "DUET_API_PORT", "DUET_SOMETHING"])
def test_other_variables_are_not_taken_for_misspelt_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes sets DUET_API_PORT for a service named duet-api; others may belong to other programs."""
    monkeypatch.setenv(name, "tcp://10.0.0.1:8000")
    load_settings()


def test_an_empty_variable_of_an_optional_setting_means_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("models", "s3_endpoint", "s3_access_key", "s3_secret_key", "broker_url", "storage", "published_on")
    for name in names:
        monkeypatch.setenv(f"DUET_{name.upper()}", "")
    assert all(getattr(load_settings(), name) == getattr(Settings(), name) for name in names)
    assert load_settings().s3_endpoint is None


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """Settings that only a check on the machine can refuse."""
    file = tmp_path / "file"
    file.write_text("no folder")
    broken = tmp_path / "models" / "broken"
    broken.mkdir(parents=True)
    (broken / "model.json").write_text("{")
    return {
        "DUET_DATA": str(file / "below"),
        "DUET_STORAGE": str(file),
        "DUET_MODELS": str(tmp_path / "nowhere"),
        "DUET_DEFAULT_MODEL": "nobody",
        "DUET_DEVICE": "cuda:99",
        "DUET_GPU_LOCKS": str(file),
    }


ON_THE_MACHINE = (
    "DUET_GPU_LOCKS",
    "DUET_DATA",
    "DUET_STORAGE",
    "DUET_MODELS",
    "DUET_DEFAULT_MODEL",
    "DUET_DEVICE",
    "DUET_PORT",
)


@pytest.mark.parametrize(
    ("command", "variable"),
    [
        (command, variable)
        for command in ("api", "worker", "serve")
        for variable in ON_THE_MACHINE
        if command != "api" or variable not in ("DUET_DEVICE", "DUET_GPU_LOCKS")  # the API computes nothing
    ],
)
def test_each_process_reports_errors_and_does_not_start(
    command: str, variable: str, machine: dict[str, str], tmp_path: Path
) -> None:
    value = machine.get(variable, "eighty")
    environment = {"DUET_DATA": str(tmp_path / "data"), "DUET_REDIS_URL": "unix:///nowhere.sock", variable: value}
    ended = invoke([command], env=environment)
    assert ended.exit_code == 1
    assert ended.output.splitlines()[0] == "Duet cannot start."
    assert f"{variable} is {value!r}" in ended.output
    assert not (tmp_path / "data").exists()


def test_a_broken_model_is_named(machine: dict[str, str], tmp_path: Path) -> None:
    ended = invoke(["api"], env={"DUET_MODELS": str(tmp_path / "models")})
    assert ended.exit_code == 1
    assert "DUET_MODELS is " in ended.output
    assert "broken/model.json" in ended.output


@pytest.mark.parametrize("command", ["api", "worker", "serve", "webhooks"])
def test_a_process_with_a_bad_setting_exits_with_status_1(command: str, tmp_path: Path) -> None:
    environment = {**os.environ, "DUET_DATA": str(tmp_path / "data"), "DUET_LEASE": "0"}
    ended = subprocess.run(
        [sys.executable, "-m", "duet", command], env=environment, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("Duet cannot start.\nDUET_LEASE is '0': ")
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "data").exists()


def test_every_setting_has_a_description() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_the_secret_key_is_not_shown() -> None:
    assert "hush" not in repr(load_settings(s3_access_key="me", s3_secret_key="hush"))


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
def test_keys_are_separated_by_commas_or_white_space(text: str, names: list[str]) -> None:
    hashes = load_settings(api_keys=text).key_hashes
    assert [name for name, _ in hashes] == names
    assert {digest for _, digest in hashes} <= {bytes.fromhex(HASH)}


@pytest.mark.parametrize(
    "text", ["duet_the-key-itself", f":{HASH}", f"a b:{HASH}", "alice:abc", f"alice:{HASH.upper()}"]
)
def test_an_invalid_key_hash_is_refused_and_not_shown(text: str) -> None:
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
