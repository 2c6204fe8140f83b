"""Folders of models that change or cannot be read while they are read."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.checkpoint import model_folders
from model.checkpoint.manifest import BUILTIN, FILE_NAME, Manifest, read_manifest
from model.checkpoint.model_folders import BrokenModel, Version, merge, read_folders
from tests.tiny_model import add_tiny_model


def test_a_folder_that_may_not_be_searched_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as lost+found. Root may search them all, so the refusal is made here."""
    models = add_tiny_model(tmp_path)
    (models / "lost+found").mkdir()
    stat, listdir = os.stat, os.listdir

    def refused_stat(path: Any, **options: Any) -> os.stat_result:
        if Path(path).parent.name == "lost+found":
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **options)

    def refused_listdir(path: Any) -> list[str]:
        if Path(path).name == "lost+found":
            raise PermissionError(13, "Permission denied", str(path))
        return listdir(path)

    monkeypatch.setattr(os, "stat", refused_stat)
    monkeypatch.setattr(os, "listdir", refused_listdir)
    own = {
        name for name, version in read_folders(models).items() if not version.manifest.folder.is_relative_to(BUILTIN)
    }
    assert own == {"tiny"}


def test_a_folder_of_models_that_cannot_be_listed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(folder: Path) -> list[Path]:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(model_folders, "_folders", failing)
    with pytest.raises(BrokenModel, match="the folder of DUET_MODELS cannot be taken: Input/output error"):
        read_folders(tmp_path)


def with_weights(tmp_path: Path, content: bytes) -> Version:
    """A model whose weights, no tensors at all, can be hashed."""
    folder = add_tiny_model(tmp_path) / "tiny"
    manifest: Manifest = replace(read_manifest(folder / FILE_NAME), base_weights="base.safetensors", folder=folder)
    (folder / "base.safetensors").write_bytes(content)
    return Version.of(manifest)


def test_weights_that_vanish_before_they_are_compared_are_refused(tmp_path: Path) -> None:
    before = with_weights(tmp_path / "before", b"old")
    assert before.manifest.weights_hash
    read = Version(replace(before.manifest), ((0, 0, 0, 0, 0),))
    (before.manifest.folder / "base.safetensors").unlink()
    with pytest.raises(BrokenModel, match="the model folder 'tiny' cannot be taken: No such file"):
        merge({"tiny": before}, {"tiny": read})


def test_weights_are_not_read_where_there_is_no_hash_to_compare(tmp_path: Path) -> None:
    before = with_weights(tmp_path, b"old")
    read = Version(replace(before.manifest), ((0, 0, 0, 0, 0),))
    merged, changes = merge({"tiny": before}, {"tiny": read})
    assert (merged["tiny"], changes.changed) == (read, ("tiny",))
    assert "weights_hash" not in read.manifest.__dict__
