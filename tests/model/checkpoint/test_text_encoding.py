"""What a manifest says of prompts: written, read again, and refused where it makes no sense."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.checkpoint.manifest import Manifest, ManifestError, read_manifest
from model.checkpoint.text_encoding import TextEncoding
from model.networks.config import PRESETS

TEXT = TextEncoding("static-256", "ab" * 32, ("en",), ("heavy rain", "fire, near by"), scale=2.5, guided_share=0.5)


def plain(**changes: Any) -> Manifest:
    return Manifest("x", PRESETS["tiny"], trained=False, description="", licence="", **changes)


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    plain(text=TEXT).write(tmp_path)
    assert read_manifest(tmp_path / "model.json").text == TEXT


def test_guidance_in_all_steps_is_written_as_before() -> None:
    assert "guided_share" not in plain(text=replace(TEXT, guided_share=1.0)).to_json()


def test_a_model_without_words_has_none_and_is_written_as_before(tmp_path: Path) -> None:
    plain().write(tmp_path)
    assert read_manifest(tmp_path / "model.json").text is None
    assert '"text"' not in plain().to_json()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"sha256": "xyz"}, "text.sha256"),
        ({"encoder": ""}, "text.encoder"),
        ({"languages": "en"}, "text.languages"),
        ({"examples": [1]}, "text.examples"),
        ({"scale": -1}, "text.scale"),
        ({"scale": 20.5}, "text.scale"),
        ({"scale": float("inf")}, "text.scale"),
        ({"scale": "3"}, "text.scale"),
        ({"guided_share": 0}, "text.guided_share"),
        ({"guided_share": 1.1}, "text.guided_share"),
        ({"guided_share": True}, "text.guided_share"),
        ({"vocabulary": 5}, "vocabulary"),
    ],
)
def test_a_field_that_makes_no_sense_is_named(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    data = json.loads(plain(text=TEXT).to_json())
    data["text"] |= changes
    (tmp_path / "model.json").write_text(json.dumps(data))
    with pytest.raises(ManifestError, match=rf"model\.json: .*{complaint}"):
        read_manifest(tmp_path / "model.json")
