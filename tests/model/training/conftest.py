"""A small model as the teacher of distillations."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model.training.publish import publish
from tests.model.training.runs import run, small


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small model."""
    out = tmp_path_factory.mktemp("teacher")
    run(small(steps=2), out / "run")
    publish(small(steps=2), out / "run", out / "model", torch.float32)
    return out / "model"
