"""A model that is small enough for tests: untrained, with weights from a seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from model.checkpoint.manifest import FILE_NAME, Manifest
from model.checkpoint.text_encoding import TextEncoding
from model.networks.config import PRESETS

TEXT = TextEncoding(
    "wordllama",
    "21ac5fc44ec359347ac30b81c799a32ff33e379ae732dedfe2f8f37b29a50061",
    examples=("heavy rain", "a fire near by, at night"),
    scale=2.5,
)


def add_tiny_model(models: Path) -> Path:
    """Add the model `tiny` to the folder of models; return that folder."""
    return _add(
        models, Manifest("tiny", PRESETS["tiny"], trained=False, description="for tests", licence="MIT", init_seed=7)
    )


def add_words_model(models: Path) -> Path:
    """Add the models `words`, which takes prompts, and `tiny`, which takes none, to the folder; return it."""
    add_tiny_model(models)
    config = replace(PRESETS["tiny"], base=replace(PRESETS["tiny"].base, text=256))
    return _add(
        models, Manifest("words", config, trained=False, description="for tests", licence="MIT", init_seed=7, text=TEXT)
    )


def _add(models: Path, manifest: Manifest) -> Path:
    (models / manifest.name).mkdir(parents=True)
    (models / manifest.name / FILE_NAME).write_text(manifest.to_json())
    return models
