"""`python -m model.verify`: passes on correct numbers, names wrong ones, lists unchecked expectations."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.verify.__main__ import main
from model.verify.report import compare

OWN = Path(__file__).parents[2] / "data" / "own_golden"


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


Verify = Callable[..., Done]


BROKEN = [
    ("sr.json", "{", "sr.json cannot be read as json"),
    ("sr.json", "{}", "sr.json does not say what kind"),
    ("sr.json", '{"kind": "sr"}', "sr.json has no entry"),
    ("sr.safetensors", "torn", "sr.safetensors cannot be read"),
    ("lonely.safetensors", "", "no lonely.json beside it"),
]
"""File, its content, and the message about it."""


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str]) -> Verify:
    def run(folder: Path, *options: str) -> Done:
        status = main([str(folder), *options])
        return Done(status, *capsys.readouterr())

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(OWN, tmp_path / "golden")
    return tmp_path / "golden"


def change(path: Path, tensor: str, by: float) -> None:
    tensors = load_file(path)
    tensors[tensor].view(-1)[7] += by
    save_file(tensors, path)


def test_our_own_recorded_numbers_are_reproduced() -> None:
    command = [sys.executable, "-m", "model.verify", str(OWN), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["passed"]
    assert {check["case"] for check in report["checks"]} >= {"coupled/one_a_sample/audio", "sr/forward"}
    assert report["not_covered"] == []


@pytest.mark.slow
@pytest.mark.parametrize("case", ["unet_?/*", "sr/forward", "statedict_*"])
def test_the_published_numbers_are_reproduced(verify: Verify, case: str) -> None:
    if "DUET_GOLDEN_DIR" not in os.environ:
        pytest.skip("DUET_GOLDEN_DIR is not set: no published numbers to compare with")
    done = verify(Path(os.environ["DUET_GOLDEN_DIR"]), "--case", case)
    assert done.returncode == 0, done.stdout + done.stderr


def test_one_wrong_value_fails_its_case_alone(verify: Verify, folder: Path) -> None:
    change(folder / "coupled.safetensors", "out/shift0/audio", by=0.01)
    done = verify(folder, "--json")
    assert done.returncode == 1
    checks = {check["case"]: check for check in json.loads(done.stdout)["checks"]}
    assert [name for name, check in checks.items() if not check["passed"]] == ["coupled/shift0/audio"]
    assert checks["coupled/shift0/audio"]["error"] == pytest.approx(0.01, rel=0.05)
    assert checks["coupled/shift0/audio"]["tolerance"] == 2e-4


def test_the_table_shows_error_tolerance_and_verdict(verify: Verify, folder: Path) -> None:
    change(folder / "sr.safetensors", "out/forward", by=1)
    done = verify(folder)
    assert done.returncode == 1
    line = next(line for line in done.stdout.splitlines() if "sr/forward" in line)
    assert "1.00e+00" in line
    assert "2.0e-04" in line
    assert "MISS" in line


def test_only_cases_that_match_are_run(verify: Verify, folder: Path) -> None:
    change(folder / "sr.safetensors", "out/forward", by=1)
    assert verify(folder, "--case", "coupled/time*").returncode == 0
    nothing = verify(folder, "--case", "absent/*")
    assert nothing.returncode == 2
    assert "absent/*" in nothing.stderr


def test_expectations_without_a_check_are_listed(verify: Verify, folder: Path) -> None:
    tensors = load_file(folder / "sr.safetensors")
    save_file({**tensors, "out/other_chain": torch.zeros(2)}, folder / "sr.safetensors")
    (folder / "new.json").write_text('{"kind": "something new"}')
    save_file({"in/x": torch.zeros(1), "out/y/video": torch.zeros(1)}, folder / "new.safetensors")
    report = json.loads(verify(folder, "--json", "--case", "sr/*").stdout)
    assert report["not_covered"] == ["new/out/y", "sr/out/other_chain"]


def test_weights_that_do_not_fit_fail_their_case_without_a_crash(verify: Verify, folder: Path) -> None:
    meta = json.loads((folder / "sr.json").read_text())
    del meta["weights_seed"]
    (folder / "sr.json").write_text(json.dumps(meta))
    tensors = load_file(folder / "sr.safetensors")
    save_file({**tensors, "weights/label_emb.weight": torch.zeros(3, 4)}, folder / "sr.safetensors")
    done = verify(folder, "--json", "--case", "sr/*")
    assert done.returncode == 1
    (check,) = json.loads(done.stdout)["checks"]
    assert "unexpected label_emb.weight (3, 4)" in check["note"]


@pytest.mark.parametrize(("name", "content", "message"), BROKEN)
def test_a_folder_that_is_not_in_the_format_is_refused_by_file(
    verify: Verify, folder: Path, name: str, content: str, message: str
) -> None:
    (folder / name).write_text(content)
    done = verify(folder)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_or_empty_folder_is_refused(verify: Verify, tmp_path: Path) -> None:
    assert verify(tmp_path / "absent").returncode == 2
    assert verify(tmp_path).returncode == 2


def test_a_python_file_in_the_folder_is_not_executed(verify: Verify, folder: Path) -> None:
    (folder / "recipe.py").write_text("import pathlib; pathlib.Path(__file__).with_name('executed').touch()")
    verify(folder, "--case", "sr/*")
    assert not (folder / "executed").exists()


def test_tolerance_is_absolute_plus_relative_and_nan_never_passes() -> None:
    expected = torch.tensor([1.0, 100.0])
    assert compare("", expected + torch.tensor([0.1, 1.0]), expected, atol=0.1, rtol=0.01).passed
    assert not compare("", expected + torch.tensor([0.2, 0.0]), expected, atol=0.1, rtol=0.01).passed
    assert not compare("", torch.tensor([1.0, torch.nan]), expected, atol=1.0, rtol=1.0).passed
    assert not compare("", torch.zeros(3), expected, atol=1e9, rtol=0).passed
