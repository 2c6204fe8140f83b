"""`duet doctor` on working and broken installations, and the imports of `duet --help`."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from duet.doctor import machine
from tests.duet.cli.conftest import Cli, Server, environment
from tests.files import files_in


def checks(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """Findings by name."""
    said = json.loads(done.stdout)
    assert said["ok"] == (done.returncode == 0) == all(each["ok"] for each in said["checks"])
    return {each["name"]: each for each in said["checks"]}


@pytest.mark.slow
def test_every_check_passes_with_a_running_server(server: Server, local: Callable[..., Cli]) -> None:
    (storage := server.folder / "kept").mkdir()
    duet = local(DUET_URL=server.url, DUET_REDIS_URL=server.settings.redis_url, DUET_STORAGE=str(storage))
    found = checks(done := duet("doctor", "--json"))
    assert done.returncode == 0, done.stdout
    assert "torch 2." in found["packages"]["says"]
    assert "cores" in found["device"]["says"] or "GiB" in found["device"]["says"]
    assert "GiB free" in found["memory"]["says"]
    assert found["model tiny"]["mend"] == "the model is untrained: its clips are noise"
    assert "written, read and deleted" in found["redis"]["says"]
    assert found["storage"]["says"] == f"{storage}: written, read and deleted"
    assert files_in(storage) == [], "the probe is gone"
    assert "accepts jobs" in found["server"]["says"]


def test_every_fault_is_reported_with_advice(local: Callable[..., Cli], tmp_path: Path) -> None:
    (a_file := tmp_path / "a file").write_text("not a folder")
    with socket.create_server(("127.0.0.1", 0)) as mute:  # accepts and never answers
        port = mute.getsockname()[1]
        duet = local(
            DUET_REDIS_URL=f"redis://user:secret@127.0.0.1:{port}/0",
            DUET_STORAGE=str(a_file / "below"),
            DUET_URL=f"http://127.0.0.1:{port}",
            DUET_MODELS=str(tmp_path / "no models"),
            DUET_DEVICE="cuda:99",
            DUET_SPEED="fast",
        )
        began = time.monotonic()
        found = checks(done := duet("doctor", "--json"))
    assert done.returncode == 1
    assert time.monotonic() - began < 60, "what does not answer does not hold it up"
    faults = {name for name, each in found.items() if not each["ok"]}
    assert faults == {"redis", "storage", "server", "models", "device"}
    assert all(found[name]["mend"] for name in faults)
    assert "secret" not in done.stdout
    assert "DUET_SPEED" in found["settings"]["mend"]
    assert "cuda:99" in found["device"]["says"]


def test_an_invalid_setting_is_reported(local: Callable[..., Cli]) -> None:
    found = checks(local(DUET_PORT="many")("doctor", "--json"))
    assert not found["settings"]["ok"]
    assert "DUET_PORT is 'many'" in found["settings"]["says"]


def test_a_library_that_cannot_be_loaded_is_reported_in_one_line(local: Callable[..., Cli], tmp_path: Path) -> None:
    (broken := tmp_path / "broken").mkdir()
    (broken / "torchaudio.py").write_text("raise OSError('libcudart.so.13: cannot open shared object file')")
    duet = local()
    duet.environment["PYTHONPATH"] = f"{broken}:{duet.environment['PYTHONPATH']}"
    done = duet("doctor")
    assert done.returncode == 1
    fault = done.stdout.index("FIX libraries")
    said, advice, *_ = done.stdout[fault:].splitlines()
    assert "libcudart.so.13" in said
    assert "→" in advice
    assert "pair" in advice
    assert "Some checks failed." in done.stdout


@pytest.mark.parametrize(
    ("torch", "torchaudio", "match"),
    [
        ("2.14.1", "2.11.0", True),
        ("2.11.0+cu130", "2.11.0", True),
        ("2.10.0", "2.11.0", False),
        ("2.9.1", "2.8.0", False),
    ],
)
def test_a_torchaudio_that_does_not_fit_torch_is_reported(
    monkeypatch: pytest.MonkeyPatch, torch: str, torchaudio: str, match: bool
) -> None:
    versions = {"torch": torch, "torchaudio": torchaudio}
    monkeypatch.setattr(machine, "version", lambda name: versions.get(name, "1.0"))
    assert all(finding.ok for finding in machine.packages()) is match


def test_help_loads_neither_torch_nor_the_api() -> None:
    code = (
        "import sys; from tests.command_line import invoke; "
        "done = invoke(['--help']); assert done.exit_code == 0, done.output; "
        "print(sorted({'torch', 'fastapi', 'celery', 'httpx', 'numpy', 'av'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stdout + done.stderr
