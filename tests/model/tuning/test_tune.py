"""A model is tuned: which solvers its manifest gets, that a stopped run goes on, and that they fit its weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from model.checkpoint.loading import load_model, save_model
from model.checkpoint.manifest import FILE_NAME, Manifest, ManifestError, read_manifest
from model.runtime.pipeline import Pipeline
from model.tuning.tune import Tuning, TuningError, tune
from tests.model.tuning.solvers import SMALL, with_solvers

CALIBRATION = {"times": [0.0, 999.0], "video": [0.01, 0.3], "audio": [0.01, 0.3]}
MANIFEST = Manifest("small", SMALL, trained=False, description="", licence="MIT", init_seed=3, calibration=CALIBRATION)
pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = Tuning(evaluations=(2,), sr_evaluations=(1,), clips=2, teacher_steps=3, rounds=1, compared=3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small model with weight files."""
    manifest = replace(MANIFEST, base_weights="base.safetensors", sr_weights="sr.safetensors", folder=tmp_path)
    save_model(manifest, *load_model(MANIFEST))
    return tmp_path


def test_every_kind_gets_its_solvers(folder: Path) -> None:
    said: list[str] = []
    tune(folder, QUICK, "cpu", say=said.append)
    manifest = read_manifest(folder / FILE_NAME)
    assert manifest.tuned is not None
    assert {name: list(found) for name, found in manifest.tuned.base.items()} == {
        "generate": [2],
        "v2a pigdm": [2],
        "a2v pigdm": [2],
    }
    assert list(manifest.tuned.sr) == [1]
    for name, modalities in (("generate", {"video", "audio"}), ("v2a pigdm", {"audio"}), ("a2v pigdm", {"video"})):
        solver = manifest.tuned.base[name][2]
        assert set(solver.weights) == modalities
        assert set(solver.distance) == {"tuned", "dpmpp_2m 2", "dpmpp_2m 3"}
        compared = modalities | ({"spectrum", "onsets"} if "audio" in modalities else set())
        assert all(set(found) == compared for found in solver.distance.values())
        assert solver.distance["tuned"] != solver.distance["dpmpp_2m 2"]
    assert any("v2a pigdm, 2 evaluations: tuned" in line for line in said)
    assert sum("evaluations of one clip or frame in" in line for line in said) == 4
    manifest.check_tuned()


def test_a_search_says_how_many_evaluations_it_takes(folder: Path) -> None:
    """Without a step of the search: four grids on two clips, and the nearest one on the two held out."""
    said: list[str] = []
    tune(folder, replace(QUICK, rounds=0, only=("generate",)), "cpu", say=said.append)
    assert any(line.startswith(f"{4 * 2 * 2 + 2 * 2} evaluations of one clip or frame in ") for line in said), said


def test_the_manifest_is_replaced_not_overwritten(folder: Path) -> None:
    """A reader never sees half of it: the file opened before is still the earlier one."""
    before = (folder / FILE_NAME).read_text()
    with (folder / FILE_NAME).open() as reader:
        tune(folder, replace(QUICK, rounds=0, only=("sr",)), "cpu", say=lambda line: None)
        assert reader.read() == before
    assert read_manifest(folder / FILE_NAME).tuned is not None


def test_a_new_calibration_drops_the_solvers_that_depend_on_it() -> None:
    manifest = with_solvers(MANIFEST)
    assert manifest.tuned is not None
    calibrated = manifest.with_calibration({**CALIBRATION, "video": [0.02, 0.4]})
    assert calibrated.tuned is not None
    assert list(calibrated.tuned.base) == ["generate", "v2a clean", "a2v clean"]
    assert calibrated.tuned.sr == manifest.tuned.sr


def test_a_run_goes_on_where_it_stopped(folder: Path) -> None:
    """What is found already stays; only `again`, and other clips to match, find it anew."""
    tune(folder, replace(QUICK, only=("generate",)), "cpu", say=lambda line: None)
    first = read_manifest(folder / FILE_NAME).tuned
    assert first is not None
    said: list[str] = []
    tune(folder, replace(QUICK, evaluations=(1, 2), only=("generate",)), "cpu", say=said.append)
    second = read_manifest(folder / FILE_NAME).tuned
    assert second is not None
    assert list(second.base["generate"]) == [1, 2]
    assert second.base["generate"][2] == first.base["generate"][2]
    assert not any(line.startswith("generate, 2") for line in said)
    tune(folder, replace(QUICK, only=("generate",), seed=1), "cpu", again=True, say=said.append)
    third = read_manifest(folder / FILE_NAME).tuned
    assert third is not None
    assert third.base["generate"][2] != first.base["generate"][2]
    finer = replace(QUICK, evaluations=(), sr_evaluations=(), teacher_steps=5)
    kept = (folder / FILE_NAME).read_text()
    with pytest.raises(TuningError, match="3 teacher steps, not 5; again"):
        tune(folder, finer, "cpu")
    assert (folder / FILE_NAME).read_text() == kept
    other = tune(folder, finer, "cpu", again=True).tuned
    assert other is not None
    assert (other.teacher_steps, other.base, other.sr) == (5, {}, {})


def test_solvers_of_other_weights_are_refused(folder: Path) -> None:
    manifest = with_solvers(read_manifest(folder / FILE_NAME))
    Pipeline.load(manifest, "cpu", "float32")
    (folder / FILE_NAME).write_text(manifest.to_json())
    for name in ("base.safetensors", "sr.safetensors"):
        kept = (folder / name).read_bytes()
        (folder / name).write_bytes(kept[:-4] + bytes(4))
        with pytest.raises(ManifestError, match="for other weights"):
            Pipeline.load(read_manifest(folder / FILE_NAME), "cpu", "float32")
        (folder / name).write_bytes(kept)
    Pipeline.load(read_manifest(folder / FILE_NAME), "cpu", "float32")


def test_solvers_of_other_random_weights_are_refused() -> None:
    manifest = with_solvers(MANIFEST)
    manifest.check_tuned()
    with pytest.raises(ManifestError, match="for other weights"):
        replace(manifest, init_seed=4).check_tuned()


def test_the_base_network_can_be_loaded_without_super_resolution(folder: Path) -> None:
    manifest = with_solvers(read_manifest(folder / FILE_NAME))
    base_only = replace(manifest, config=replace(manifest.config, sr=None), sr_weights=None)
    assert Pipeline.load(base_only, "cpu", "float32").evaluator.sr is None


def test_tuning_again_drops_the_solvers_of_other_weights(folder: Path) -> None:
    manifest = with_solvers(read_manifest(folder / FILE_NAME), teacher_steps=QUICK.teacher_steps)
    (folder / FILE_NAME).write_text(manifest.to_json())
    weights = folder / "base.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + bytes(4))
    tuned = tune(folder, replace(QUICK, rounds=0, only=("sr",)), "cpu", say=lambda line: None).tuned
    assert tuned is not None
    assert tuned.base == {}
    assert list(tuned.sr) == [1, 2, 3, 4]  # those of super-resolution are still right


@pytest.mark.parametrize("name", ["v2a clean", "video", "a2v"])
def test_only_what_the_model_can_do_is_tuned(folder: Path, name: str) -> None:
    with pytest.raises(TuningError, match=r"generate, v2a pigdm, a2v pigdm, sr; got"):
        tune(folder, replace(QUICK, only=(name,)), "cpu")


def test_a_manifest_keeps_its_solvers(folder: Path) -> None:
    manifest = with_solvers(read_manifest(folder / FILE_NAME))
    (folder / FILE_NAME).write_text(manifest.to_json())
    again = read_manifest(folder / FILE_NAME)
    assert again.tuned is not None
    assert manifest.tuned is not None
    assert again.tuned.to_json() == manifest.tuned.to_json()
    assert list(again.tuned.find("v2a", "clean")) == [4, 6, 8, 10]
    assert again.tuned.find("v2a", "replacement") == {}


@pytest.mark.parametrize(
    "damage",
    [
        {"base": {"generate": {"4": {"times": [1.0, 2.0], "weights": {}, "distance": {}}}}},
        {"base": {"generate": {"four": {"times": [1.0], "weights": {}, "distance": {}}}}},
        {"base": {"generate": {"1": {"times": [1.0], "weights": {"video": [[0.5]]}, "distance": {}}}}},
        {"base": []},
        {"base": {"generate": 4}},
        {"sr": {"1": {"times": 4}}},
    ],
)
def test_a_damaged_manifest_is_refused(folder: Path, damage: dict[str, object]) -> None:
    data = json.loads((folder / FILE_NAME).read_text())
    data["tuned"] = {"teacher_steps": 64, "base_hash": "0", "sr_hash": None, "base": {}, "sr": {}} | damage
    (folder / FILE_NAME).write_text(json.dumps(data))
    with pytest.raises(ManifestError, match=str(folder)):
        read_manifest(folder / FILE_NAME)
