"""benchmarks.publish_demo makes the result of a training run the model that ships, all of it or nothing."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from benchmarks import demo_model, publish_demo
from benchmarks.publish_demo import CLIP, FIGURES, MODEL, OF_THE_EARLIER_MODEL, PAGE, ROOT, Wanted, evaluated, publish
from model.checkpoint.manifest import FILE_NAME, Manifest, read_manifest
from model.training import publish as published
from model.training.packing import pack
from tests.model.training.runs import run, small
from tests.tiny_model import add_tiny_model

FEW = Wanted(clips=2)


@pytest.fixture(autouse=True)
def coarse_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "CALIBRATION_TIMES", 2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as a training run leaves it that had no time for calibration and evaluation."""
    root = tmp_path_factory.mktemp("training")
    for kind in ("base", "sr"):
        sr = {"channels": 16, "channel_mult": [1], "patch": 4}
        config = small(name="demo", kind=kind, batch=2, times={"independent_timesteps": kind == "base"}, sr=sr)
        run(config, root / kind)
        published.publish(config, root / kind, root / "packed" / "model", torch.float16)
    return root / "packed" / "model"


@pytest.fixture
def packed(model: Path, tmp_path: Path) -> Path:
    """The packed result of the run."""
    pack(model.parent, tmp_path / "packed")
    return tmp_path / "packed"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """As much of a repository as is replaced, with another model."""
    root = tmp_path / "repository"
    shutil.move(add_tiny_model(tmp_path / "models") / "tiny", root / MODEL)
    for path in (PAGE, FIGURES / "sr_start.json", CLIP):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / PAGE, root / PAGE)
    (root / FIGURES / "sr_start.json").write_text('{"frames": 2}')
    (root / CLIP).write_bytes(b"the earlier clip")
    return root


def files(root: Path) -> dict[Path, bytes]:
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_run_without_calibration_is_made_the_model_that_ships(packed: Path, repository: Path) -> None:
    ours, said = files(ROOT / MODEL), list[str]()
    publish(packed, repository, FEW, said.append)
    manifest = read_manifest(repository / MODEL / FILE_NAME)
    assert manifest.calibration
    evaluation = json.loads((repository / MODEL / "evaluation.json").read_text())
    assert (evaluation["weights"], evaluation["clips"]) == (manifest.weights_hash, 2)
    assert {run["method"] for run in evaluation["runs"]} == {None, "clean", "pigdm"}
    page = replace(demo_model.PARTS, page=repository / PAGE)
    assert {name: page.written(name) for name in demo_model.tables(manifest)} == demo_model.tables(manifest)
    recorded = load_file(repository / CLIP)
    assert recorded["large"].shape == (2, *manifest.config.output_size, 3)
    assert json.loads((repository / FIGURES / "sr_start.json").read_text())["weights"] == manifest.weights_hash
    drawn = {f"demo-{name}" for name in ("frames.png", "sounds.webp", "scores.png", "training.png")}
    drawn |= {"generate.webp", "v2a.webp", "a2v.webp", "spectrogram.png", "edit-extend.png", "sr_start.png"}
    assert drawn <= {path.name for path in (repository / FIGURES).iterdir()}
    assert any("docs/figures/edits.json" in line for line in said), "what is still of the earlier model is listed"
    assert list((repository / "build").iterdir()) == []
    assert files(ROOT / MODEL) == ours, "the repository of the tests is left alone"


@pytest.mark.parametrize(
    ("wanted", "limit", "reason"),
    [
        (FEW, 100, r"the weights have .* MB, more than the 0 MB"),
        (replace(FEW, methods=("clean", "none")), publish_demo.MAX_BYTES, "methods must be some of"),
        (FEW, publish_demo.MAX_BYTES, "the last figure"),
    ],
)
def test_a_step_that_fails_replaces_nothing(
    wanted: Wanted, limit: int, reason: str, packed: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("the last figure")

    monkeypatch.setattr(publish_demo, "MAX_BYTES", limit)
    monkeypatch.setattr(publish_demo, "evaluate", lambda *_, out, **__: out.mkdir(parents=True))
    monkeypatch.setattr(publish_demo, "draw", fail)
    before, said = files(repository), list[str]()
    with pytest.raises(ValueError, match=reason):
        publish(packed, repository, wanted, said.append)
    assert files(repository) == before
    assert said[-1] == "nothing was replaced"


def test_files_that_were_replaced_come_back_if_another_fails(repository: Path, tmp_path: Path) -> None:
    """The folder of the last one is missing."""
    new = tmp_path / "new"
    page = next(path for path in repository.rglob("*.md"))
    for name in (f"{MODEL}/model.json", str(page.relative_to(repository)), "zzz/missing/figure.png"):
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        (new / name).write_text("new")
    before = files(repository)
    with pytest.raises(FileNotFoundError):
        publish_demo.install(tmp_path, repository)
    assert files(repository) == before


def test_a_model_that_does_not_allow_a_method_is_refused(model: Path, tmp_path: Path, repository: Path) -> None:
    root = tmp_path / "other"
    shutil.copytree(model, root / "model")
    replace(read_manifest(model / FILE_NAME), independent_timesteps=False).write(root / "model")
    pack(root, tmp_path / "packed")
    before = files(repository)
    with pytest.raises(ValueError, match="does not allow clean; it was not trained with independent timesteps"):
        publish(tmp_path / "packed", repository, replace(FEW, methods=("clean",)), lambda _: None)
    assert files(repository) == before


def report(manifest: Manifest, **changed: Any) -> dict[str, Any]:
    """An evaluation as a training run makes it."""
    runs = [{"kind": kind, "method": method} for kind, method in (("joint", None), ("v2a", "clean"), ("a2v", "clean"))]
    return {"weights": manifest.weights_hash, "clips": 64, "data": "scenes", "runs": runs, **changed}


def test_an_evaluation_of_the_training_run_is_used_if_it_has_what_is_wanted(model: Path, tmp_path: Path) -> None:
    manifest, path = read_manifest(model / FILE_NAME), tmp_path / "evaluation.json"

    def usable(clips: int = 64, methods: tuple[str, ...] | None = None, **changed: Any) -> bool:
        path.write_text(json.dumps(report(manifest, **changed)))
        return evaluated(path, manifest, "scenes", clips, methods)

    assert not evaluated(path, manifest, "scenes", 64, None)
    assert usable()
    assert usable(methods=("clean",))
    assert not usable(clips=256)
    assert not usable(methods=("clean", "pigdm"))
    assert not usable(weights="abc")
    assert not usable(data="bounce")
    assert not usable(runs=[{"kind": "joint", "method": None}])


@pytest.mark.parametrize(("pages", "command"), OF_THE_EARLIER_MODEL.items())
def test_each_command_for_what_is_of_the_earlier_model_exists(pages: str, command: str) -> None:
    for name in pages.split(", "):
        assert (ROOT / name).exists() or (ROOT / FIGURES / name).exists(), name
    for module in re.findall(r"benchmarks\.(\w+)", command):
        assert (ROOT / "benchmarks" / f"{module}.py").exists()
