"""Duet empties its own folder for temporary files, and no other."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from duet.cli.startup_checks import check_machine
from duet.standalone import stack
from service.settings import Settings
from service.temporary_folder import MARKER, claim, empty


def test_files_in_a_folder_of_that_name_are_kept(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        settings = Settings(data=tmp_path, port=free.getsockname()[1])
    foreign = settings.temporary / "thesis.txt"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("the only copy")
    with pytest.raises(stack.CannotServe, match=rf"duet-tmp is not empty and .* {MARKER} is missing"):
        stack.serve(settings)
    assert foreign.read_text() == "the only copy"


def test_a_folder_named_tmp_is_not_touched(tmp_path: Path) -> None:
    foreign = tmp_path / "tmp" / "thesis.txt"
    foreign.parent.mkdir()
    foreign.write_text("the only copy")
    empty(Settings(data=tmp_path))
    assert foreign.read_text() == "the only copy"


def test_what_killed_processes_left_is_deleted(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    empty(settings)
    (settings.temporary / "job" / "frames").mkdir(parents=True)
    (settings.temporary / "upload").write_bytes(b"half")
    empty(settings)
    assert list(settings.temporary.iterdir()) == []


def test_a_folder_that_one_process_made_is_known_to_the_next(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    claim(settings)
    (settings.temporary / "upload").write_bytes(b"half")
    claim(settings)
    assert (settings.temporary / "upload").exists()
    empty(settings)
    assert list(settings.temporary.iterdir()) == []


def test_a_process_on_a_foreign_folder_ends_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "duet-tmp").mkdir()
    (tmp_path / "duet-tmp" / "thesis.txt").write_text("the only copy")
    with pytest.raises(SystemExit, match="Duet did not make it"):
        check_machine(Settings(data=tmp_path))
    assert (tmp_path / "duet-tmp" / "thesis.txt").exists()
