"""DDPM beside solvers, with few steps: made once, measured on equal numbers of clips, shown."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks import ddpm
from benchmarks.ddpm import Row, run, table
from benchmarks.kept_clips import open_folder

ROWS = (Row("solver", "dpmpp_2m", 2, evaluations=2), Row("ancestral", "ddpm", 3, evaluations=3))


@pytest.mark.slow
def test_rows_are_made_once_and_measured_on_equal_numbers_of_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ddpm, "GROUP", 2)
    monkeypatch.setattr(ddpm, "REFERENCE", 4)
    report = run("demo", tmp_path, ROWS, 4, float("inf"))
    assert report["clips"] == 4
    (tmp_path / "ddpm-3-0002.safetensors").unlink()
    written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    shorter = run("demo", tmp_path, ROWS, 4, until=0.0)
    assert shorter["clips"] == 2
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == written
    for row in shorter["rows"].values():
        assert set(row["distances"]) == {"log_mel", "sound_events", "gradients", "picture_events"}
        assert "onset_f1" in row["scores"]
    shown = table(shorter)
    assert "| ancestral | 3 |" in shown
    assert "other real clips" in shown


def test_clips_of_other_weights_are_refused(tmp_path: Path) -> None:
    open_folder(tmp_path / "new", "a")
    open_folder(tmp_path / "new", "a")
    with pytest.raises(RuntimeError, match="made with the weights a, not with b"):
        open_folder(tmp_path / "new", "b")
    with pytest.raises(RuntimeError, match="made with the weights a"):
        run("demo", tmp_path / "new", ROWS, 8, until=0.0)


def test_clips_without_a_record_of_their_weights_are_kept_by_the_command_in_the_message(tmp_path: Path) -> None:
    kept = tmp_path / "clips of autumn"
    kept.mkdir()
    (kept / "clip").touch()
    with pytest.raises(RuntimeError, match=r"no weights\.txt") as refused:
        open_folder(kept, "a")
    command = str(refused.value).partition("keep them: ")[2]
    subprocess.run(command, shell=True, check=True)
    open_folder(kept, "a")
    with pytest.raises(RuntimeError, match="made with the weights a, not with b"):
        open_folder(kept, "b")


def test_a_row_without_clips_is_named(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no clips yet of ancestral"):
        run("demo", tmp_path, ROWS[1:], 8, until=0.0)
