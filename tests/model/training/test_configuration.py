"""A configuration is read strictly, and errors name the setting."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import model.training
from model.networks.config import PRESETS, ConfigError
from model.training.configuration import (
    ConfigurationError,
    TrainingConfig,
    build_configuration,
    configuration_from_json,
    differences,
    flatten,
    read_configuration,
)
from tests.model.training.runs import small

SHIPPED = sorted((Path(model.training.__file__).parent / "configs").glob("*.toml"))
DOCUMENTATION = Path(__file__).parents[3] / "docs" / "training.md"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configurations_are_valid_and_survive_serialisation(path: Path) -> None:
    config = read_configuration(path)
    assert configuration_from_json(config.to_json()) == config


def test_a_record_with_a_setting_that_was_removed_is_read() -> None:
    record = {**json.loads(small().to_json()), "compile": False}
    assert configuration_from_json(json.dumps(record)) == small()


def test_demo_is_what_the_demo_preset_builds_with_text() -> None:
    base, sr = (read_configuration(SHIPPED[0].with_name(name)) for name in ("demo.toml", "demo-sr.toml"))
    assert base.model.base == replace(PRESETS["demo"].base, text=256)
    assert base.times.independent_timesteps
    assert sr.model.sr == PRESETS["demo"].sr
    assert base.model.clip == sr.model.clip


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"step": 5}, "there is no setting step; did you mean steps?"),
        ({"times": {"shared": 0.1}}, "there is no setting times.shared; did you mean times.shared_t?"),
        ({"base": {"chanels": 64}}, "there is no setting base.chanels; did you mean base.channels?"),
        ({"steps": "many"}, "steps must be a whole number; got 'many'"),
        ({"steps": 0}, "steps must be at least 1; got 0"),
        ({"batch": 10, "accumulate": 4}, "batch must be divisible by accumulate; got 10 and 4"),
        ({"optimizer": {"lr": "fast"}}, "optimizer.lr must be a number; got 'fast'"),
        ({"optimizer": {"ema": 1.5}}, "optimizer.ema must be 0 … 1; got 1.5"),
        ({"times": {"independent_timesteps": 1}}, "times.independent_timesteps must be true or false; got 1"),
        ({"compile": True}, "compile is no longer a setting: on a GPU, steps are replayed as a CUDA graph; delete it"),
        ({"preset": "huge"}, "preset must be one of paper, demo, pocket, tiny; got 'huge'"),
        ({"precision": "float8"}, "precision must be one of auto, float32, bfloat16; got 'float8'"),
        ({"times": {"shared_t": 0.6, "clean_video": 0.3, "clean_audio": 0.2}}, "add up to 1.1, over 1"),
        ({"data": 3}, "data must be a table, [data]; got 3"),
        ({"data": {"source": "folder"}}, 'data.folder and data.source = "folder" go together'),
        ({"base": {"windows": 4}}, "base.windows must be a list; got 4"),
        ({"degradation": {"jpeg_quality": [80, 20]}}, "degradation.jpeg_quality must be two rising numbers"),
        ({"base": {"modalities": ["audio"]}, "times": {"independent_timesteps": True}}, "needs two modalities"),
    ],
)
def test_a_wrong_setting_is_named(data: dict[str, object], sentence: str) -> None:
    with pytest.raises((ConfigurationError, ConfigError)) as error:
        build_configuration(data)
    assert sentence in str(error.value)


def test_command_line_settings_override_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('preset = "tiny"\nsteps = 5\n[optimizer]\nlr = 1e-3\n')
    config = read_configuration(path, ["steps=7", "optimizer.warmup=3", "base.windows=[1, 2, 4]", "name=mine"])
    assert (config.steps, config.optimizer.warmup, config.optimizer.lr) == (7, 3, 1e-3)
    assert config.model.base.windows == (1, 2, 4)
    assert config.name == "mine"
    with pytest.raises(ConfigurationError, match="KEY=VALUE"):
        read_configuration(path, ["steps"])


def test_a_network_that_does_not_fit_its_clip_is_refused_with_the_numbers(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('preset = "tiny"\n[clip]\nheight = 20\n')
    with pytest.raises(ConfigurationError, match="20×16 pixels are not divisible by 8"):
        read_configuration(path)


def test_differences_list_only_settings_that_change_the_result() -> None:
    changed = small(steps=100, output={"losses": 7}, optimizer={"lr": 0.5}, base={"channels": 32})
    assert differences(small(), changed) == [
        "base.channels was 16 and is 32",
        "optimizer.lr was 0.001 and is 0.5",
    ]


def test_the_documentation_lists_every_setting_with_its_default() -> None:
    page = DOCUMENTATION.read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    settings = {name: value for name, value in asdict(TrainingConfig()).items() if name != "model"}
    for name, default in flatten(settings).items():
        shown = str(default).lower() if isinstance(default, bool) else str(default or "") if default != 0 else "0"
        shown = ", ".join(map(str, default)) if isinstance(default, tuple) else shown
        start = f"| `{name}` | `{shown}` |" if shown else f"| `{name}` | |"
        assert any(row.startswith(start) for row in rows), f"docs/training.md has no row {start}"
