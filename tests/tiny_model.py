"""A model that is small enough for tests: untrained, with weights from a seed."""

from __future__ import annotations

from pathlib import Path

from model.checkpoint.manifest import FILE_NAME, Manifest
from model.networks.config import PRESETS


def add_tiny_model(models: Path) -> Path:
    """Add the model `tiny` to the folder of models; return that folder."""
    manifest = Manifest("tiny", PRESETS["tiny"], trained=False, description="for tests", licence="MIT", init_seed=7)
    (models / "tiny").mkdir(parents=True)
    (models / "tiny" / FILE_NAME).write_text(manifest.to_json())
    return models
