"""`duet tune`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from model.checkpoint.manifest import FILE_NAME, Manifest, read_manifest
from tests.duet.cli.conftest import Cli
from tests.model.tuning.solvers import SMALL

QUICK = ("--sr-evaluations", "1", "--clips", "2", "--teacher-steps", "20", "--rounds", "0", "--device", "cpu")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The folder of a small model."""
    folder = tmp_path / "small"
    folder.mkdir()
    manifest = Manifest("small", SMALL, trained=False, description="", licence="MIT", init_seed=3, folder=folder)
    (folder / FILE_NAME).write_text(manifest.to_json())
    return folder


def test_a_model_is_tuned(model: Path) -> None:
    done = Cli(model.parent)("tune", model, "--evaluations", "2,1", "--only", "generate", *QUICK)
    assert done.returncode == 0, done.stderr
    assert "generate, 2 evaluations: tuned: video" in done.stdout
    tuned = read_manifest(model / FILE_NAME).tuned
    assert tuned is not None
    assert (list(tuned.base["generate"]), tuned.sr) == ([1, 2], {})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--evaluations", "4;6"), "Invalid value for --evaluations: numbers from 1 to 50"),
        (("--evaluations", "0"), "got '0'"),
        (("--only", "v2a clean"), "can be tuned for generate, sr; got v2a clean"),
    ],
)
def test_what_cannot_be_tuned_is_a_wrong_command_line(model: Path, arguments: tuple[str, ...], message: str) -> None:
    done = Cli(model.parent)("tune", model, *arguments, *QUICK)
    assert done.returncode == 2
    assert message in done.stderr
    assert read_manifest(model / FILE_NAME).tuned is None


def test_weights_that_are_not_there_are_named(model: Path) -> None:
    manifest = replace(read_manifest(model / FILE_NAME), base_weights="missing.safetensors")
    (model / FILE_NAME).write_text(manifest.to_json())
    done = Cli(model.parent)("tune", model, *QUICK)
    assert done.returncode == 1
    assert "missing.safetensors" in done.stderr
    assert "Traceback" not in done.stderr
