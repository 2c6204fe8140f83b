"""A small model as the teacher of distillations."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.model.training.runs import small_teacher


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small model."""
    return small_teacher(tmp_path_factory.mktemp("teacher"))
