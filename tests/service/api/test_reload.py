"""`POST /models/reload`: what it takes, what it refuses, and who may ask for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from model.checkpoint.loading import build, save_model, seeded_weights
from model.checkpoint.manifest import FILE_NAME, Manifest, find_models, read_manifest
from model.networks.config import PRESETS
from model.networks.coupled_unet import CoupledUNet
from service.api.catalogue import Catalogue
from service.jobs.connection import StoreUnavailable
from service.settings import Settings
from tests.conftest import RunningApi
from tests.service.answers import problem
from tests.service.keys import client_of, with_keys
from tests.tiny_model import add_tiny_model, add_words_model


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with the model `tiny`."""
    return add_tiny_model(tmp_path / "models")


@pytest.fixture
def start(run_api: Callable[[Settings], RunningApi], settings: Settings, models: Path) -> Callable[[], RunningApi]:
    """Starts an API process with the folder; all share one Redis."""
    return lambda: run_api(settings.model_copy(update={"models": models, "default_model": "tiny"}))


@pytest.fixture
def api(start: Callable[[], RunningApi]) -> httpx.Client:
    return client_of(start(), None)


def shown(api: httpx.Client) -> dict[str, Any]:
    return {model["name"]: model for model in api.get("/models").raise_for_status().json()["data"]}


def add_with_weights(models: Path, seed: int = 1, width: int | None = None) -> Path:
    """A model with a weight file; `width`: channels of a network that does not fit it."""
    config = replace(PRESETS["tiny"], sr=None)
    network = build(CoupledUNet, config.base if width is None else replace(config.base, channels=width))
    seeded_weights(network, seed)
    manifest = Manifest("heavy", config, trained=True, description="", licence="MIT", base_weights="base.safetensors")
    save_model(replace(manifest, folder=models / "heavy"), network, None)
    return models / "heavy"


def change_description(folder: Path, description: str) -> None:
    replace(read_manifest(folder / FILE_NAME), description=description).write(folder)


def test_models_are_added_changed_and_removed_without_a_restart(api: httpx.Client, models: Path) -> None:
    assert "words" not in shown(api)
    problem(api.post("/generate", json={"model": "words"}), 422, "unknown_model")
    add_words_model(models / "more")
    (models / "more" / "words").rename(models / "words")
    assert "words" not in shown(api), "nothing happens before it is asked for"

    first = api.post("/models/reload").raise_for_status().json()
    assert first == {"added": ["words"], "changed": [], "removed": [], "generation": 1, "workers": 0}
    assert "words" in shown(api)
    assert api.post("/generate", json={"model": "words"}).status_code == 202

    change_description(models / "words", "another one")
    (models / "words").rename(models / "renamed")
    second = api.post("/models/reload").json()
    assert (second["changed"], second["generation"]) == (["words"], 2)
    assert shown(api)["words"]["description"] == "another one"

    (models / "renamed" / FILE_NAME).unlink()
    third = api.post("/models/reload").json()
    assert (third["added"], third["changed"], third["removed"]) == ([], [], ["words"])
    problem(api.post("/generate", json={"model": "words"}), 422, "unknown_model")
    assert api.post("/models/reload").json()["removed"] == []


def test_other_weights_under_the_same_name_are_a_change(
    api: httpx.Client, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.api.catalogue._check_layouts", lambda versions: None)  # a process takes a second
    folder = add_with_weights(models, seed=1)
    assert api.post("/models/reload").json()["added"] == ["heavy"]
    before = shown(api)["heavy"]["weights_hash"]
    weights = folder / "base.safetensors"
    weights.write_bytes(weights.read_bytes())
    assert api.post("/models/reload").json()["changed"] == [], "the same bytes again are no change"
    add_with_weights(models, seed=2)
    assert shown(api)["heavy"]["weights_hash"] == before, "not before the reload"
    assert api.post("/models/reload").json()["changed"] == ["heavy"]
    assert shown(api)["heavy"]["weights_hash"] != before


def break_manifest(models: Path) -> None:
    (models / "tiny" / FILE_NAME).write_text('{"name": "tiny"}')


def truncate_weights(models: Path) -> None:
    weights = add_with_weights(models) / "base.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def lose_weights(models: Path) -> None:
    (add_with_weights(models) / "base.safetensors").unlink()


def lose_manifest(models: Path) -> None:
    (add_with_weights(models) / FILE_NAME).unlink()


def take_other_weights(models: Path) -> None:
    add_with_weights(models, width=PRESETS["tiny"].base.channels * 2)


def claim_a_name_twice(models: Path) -> None:
    (models / "zwei").mkdir()
    (models / "zwei" / FILE_NAME).write_text((models / "tiny" / FILE_NAME).read_text())


def write_no_tensors(models: Path) -> None:
    (add_with_weights(models) / "base.safetensors").write_bytes(b"\x20\0\0\0\0\0\0\0no header of thirty-two bytes...")


@pytest.mark.parametrize(
    ("spoil", "folder", "reason"),
    [
        (break_manifest, "tiny", "the field 'config' is missing"),
        (truncate_weights, "heavy", "base.safetensors is incomplete: "),
        (lose_weights, "heavy", "base.safetensors: No such file"),
        (lose_manifest, "heavy", "no model.json"),
        (take_other_weights, "heavy", "tensors do not fit the network"),
        (claim_a_name_twice, "zwei", "the name 'tiny' is taken by the folder 'tiny'"),
        (write_no_tensors, "heavy", "not a safetensors file"),
    ],
)
def test_a_broken_folder_is_refused_by_its_name_and_nothing_changes(
    api: httpx.Client, models: Path, spoil: Callable[[Path], None], folder: str, reason: str
) -> None:
    before = shown(api)
    add_words_model(models / "more")
    (models / "more" / "words").rename(models / "words")
    spoil(models)
    answer = problem(api.post("/models/reload"), 409, "models_refused")
    assert (answer["folder"], reason in answer["reason"]) == (folder, True), answer["reason"]
    assert str(models) not in str(answer), "paths are nobody's business"
    assert shown(api) == before


def test_the_default_model_and_the_folder_cannot_vanish(api: httpx.Client, models: Path) -> None:
    (models / "tiny").rename(models.parent / "elsewhere")
    answer = problem(api.post("/models/reload"), 409, "models_refused")
    assert "the default model 'tiny'" in answer["reason"]
    models.rmdir()
    answer = problem(api.post("/models/reload"), 409, "models_refused")
    assert (answer["folder"], answer["reason"]) == ("DUET_MODELS", "there is no such folder")
    assert "tiny" in shown(api)
    assert api.post("/generate").status_code == 202


def test_other_processes_follow_before_their_next_answer(start: Callable[[], RunningApi], models: Path) -> None:
    first, second = client_of(start(), None), client_of(start(), None)
    assert "words" not in shown(second)
    add_words_model(models / "more")
    (models / "more" / "words").rename(models / "words")
    first.post("/models/reload").raise_for_status()
    assert second.post("/generate", json={"model": "words"}).status_code == 202
    assert shown(first) == shown(second)
    late = client_of(start(), None)
    assert shown(late) == shown(first)


def test_a_process_that_cannot_follow_keeps_what_it_has(
    start: Callable[[], RunningApi], models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = client_of(start(), None), client_of(start(), None)
    before = shown(second)
    add_words_model(models / "more")
    (models / "more" / "words").rename(models / "words")
    first.post("/models/reload").raise_for_status()
    break_manifest(models)
    monkeypatch.setattr("service.api.catalogue.REFUSED_RETRY_S", 0)
    assert shown(second) == before
    add_tiny_model(models / "repaired")
    (models / "repaired" / "tiny" / FILE_NAME).replace(models / "tiny" / FILE_NAME)
    assert "words" in shown(second), "it catches up by itself"


def test_without_redis_no_process_changes_anything(
    start: Callable[[], RunningApi], models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = start()
    api = client_of(running, None)
    add_words_model(models / "more")
    (models / "more" / "words").rename(models / "words")

    def away() -> int:
        raise StoreUnavailable("gone")

    monkeypatch.setattr(running.app.state.services.generation, "advance", away)
    problem(api.post("/models/reload"), 503, "queue_unavailable")
    assert "words" not in shown(api)


def test_redis_that_goes_away_during_a_reload_stops_it_before_anything_is_taken(
    start: Callable[[], RunningApi], models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = start()
    api = client_of(running, None)
    add_words_model(models / "more")
    (models / "more" / "words").rename(models / "words")

    def away() -> list[str]:
        raise StoreUnavailable("gone")

    monkeypatch.setattr(running.app.state.services.store, "workers", away)
    problem(api.post("/models/reload"), 503, "queue_unavailable")
    assert "words" not in shown(api)
    monkeypatch.undo()
    assert api.post("/models/reload").json()["generation"] == 1


def test_a_hash_of_weights_that_were_replaced_before_it_was_computed_is_not_kept(
    start: Callable[[], RunningApi], models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.api.catalogue._check_layouts", lambda versions: None)
    add_with_weights(models, seed=1)
    api = client_of(start(), None)
    add_with_weights(models, seed=2)
    shown(api)
    assert api.post("/models/reload").json()["changed"] == ["heavy"]


def test_a_model_whose_weights_vanish_before_they_are_hashed_is_left_out_and_refused_until_they_are_back(
    start: Callable[[], RunningApi], models: Path
) -> None:
    folder, elsewhere = add_with_weights(models), models.parent / "elsewhere"
    api = client_of(start(), None)
    folder.rename(elsewhere)
    assert "heavy" not in shown(api)
    assert "tiny" in shown(api)
    refused = problem(api.post("/generate", json={"model": "heavy"}), 503, "model_unavailable")
    assert "'heavy'" in refused["detail"]
    assert str(models) not in refused["detail"]
    refused = api.post("/v1/videos", json={"model": "heavy", "prompt": ""}).json()["error"]
    assert (refused["code"], "'heavy'" in refused["message"]) == ("model_unavailable", True), refused

    elsewhere.rename(folder)
    assert api.post("/generate", json={"model": "heavy"}).status_code == 202
    assert "heavy" in shown(api)
    folder.rename(elsewhere)
    assert "heavy" in shown(api), "its hash is known, and workers may have it loaded"
    assert api.post("/generate", json={"model": "heavy"}).status_code == 202


def test_an_unreadable_model_is_logged_once_until_it_is_back(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = add_with_weights(models) / "base.safetensors"
    catalogue = Catalogue(find_models(models), "tiny", models)
    logged: list[str] = []
    monkeypatch.setattr(
        "service.api.catalogue.log", SimpleNamespace(error=lambda text, **facts: logged.append(facts["model"]))
    )
    weights.rename(models / "elsewhere")
    for _ in range(3):
        assert "heavy" not in [manifest.name for manifest, _ in catalogue.readable()]
    assert logged == ["heavy"]
    (models / "elsewhere").rename(weights)
    assert "heavy" in [manifest.name for manifest, _ in catalogue.readable()]


def test_weights_that_vanish_while_they_are_hashed_are_refused(
    api: httpx.Client, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = add_with_weights(models)

    def vanish(versions: object) -> None:
        (folder / "base.safetensors").unlink()

    monkeypatch.setattr("service.api.catalogue._check_layouts", vanish)
    answer = problem(api.post("/models/reload"), 409, "models_refused")
    assert (answer["folder"], answer["reason"]) == ("heavy", "No such file or directory")


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), RuntimeError("unforeseen")])
def test_any_error_of_a_reload_leaves_the_models_as_they_are_and_is_logged_once(
    error: Exception, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = Catalogue(find_models(models), "tiny", models)
    logged: list[str] = []

    def failing(folder: Path) -> None:
        raise error

    monkeypatch.setattr("service.api.catalogue.read_folders", failing)
    monkeypatch.setattr("service.api.catalogue.REFUSED_RETRY_S", 0)
    monkeypatch.setattr("service.api.catalogue.log", SimpleNamespace(error=lambda text, **facts: logged.append(text)))
    for _ in range(3):
        catalogue.follow(1)
    assert len(logged) == 1
    catalogue.reload()
    assert len(logged) == 2, "SIGHUP is answered"
    assert "tiny" in catalogue.manifests


def test_requests_do_not_wait_for_a_long_reload(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue = Catalogue(find_models(models), "tiny", models)
    monkeypatch.setattr("service.api.catalogue.FOLLOW_WAIT_S", 0)
    with catalogue.reloading():
        catalogue.follow(1)
    assert "tiny" in catalogue.manifests


def test_only_the_keys_of_operators_may_reload(run_api: Callable[[Settings], RunningApi], settings: Settings) -> None:
    with_none = run_api(with_keys(settings))
    problem(client_of(with_none, "alice").post("/models/reload"), 403, "not_an_admin")
    running = run_api(with_keys(settings, admin_keys="alice"))
    assert client_of(running, "alice").post("/v1/models/reload").status_code == 200
    assert "DUET_ADMIN_KEYS" in problem(client_of(running, "bob").post("/models/reload"), 403, "not_an_admin")["detail"]
    problem(client_of(running, None).post("/models/reload"), 401, "unauthorized")


def test_without_keys_pages_of_other_sites_cannot_reload(api: httpx.Client) -> None:
    problem(api.post("/models/reload", headers={"Origin": "https://elsewhere.example"}), 403, "cross_site")


def test_an_admin_without_a_key_is_a_mistake() -> None:
    with pytest.raises(ValidationError, match="DUET_ADMIN_KEYS names carol, not in DUET_API_KEYS"):
        Settings(admin_keys="carol")
