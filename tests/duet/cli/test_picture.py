"""`duet picture`, as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.clips import Film, Track, make


def picture(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "duet", "picture", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make(tmp_path / "clip.mp4", Film(frames=32), Track(seconds=1))


@pytest.mark.parametrize(("name", "format"), [("a.png", "PNG"), ("a.webp", "WEBP"), ("a.JPG", "JPEG")])
def test_the_suffix_selects_the_format(clip: Path, tmp_path: Path, name: str, format: str) -> None:
    done = picture(clip, "-o", tmp_path / name)

    assert done.returncode == 0, done.stderr
    assert done.stdout == f"wrote {tmp_path / name}\n"
    with Image.open(tmp_path / name) as written:
        assert (written.format, written.width) == (format, 1600)


def test_errors_are_one_line(clip: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "notes.mp4"
    wrong.write_text("not a clip")
    for arguments, status, reason in (
        ((wrong, "-o", tmp_path / "a.png"), 1, "cannot be opened"),
        ((clip, "-o", tmp_path / "nowhere" / "a.png"), 1, "cannot be written"),
        ((clip, "-o", tmp_path / "a.txt"), 2, "must end in"),
    ):
        done = picture(*arguments)
        assert done.returncode == status
        assert reason in done.stderr
        assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("a.*"))
