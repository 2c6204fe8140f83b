"""Models that come and go under a worker that runs: reloads, and loads on demand."""

from __future__ import annotations

import gc
import json
import os
import signal
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from model.checkpoint.loading import build, save_model, seeded_weights
from model.checkpoint.manifest import FILE_NAME, Manifest, read_manifest
from model.checkpoint.model_folders import BrokenModel
from model.networks.config import PRESETS
from model.networks.coupled_unet import CoupledUNet
from model.request import SamplingParams
from model.runtime.pipeline import Pipeline
from service.jobs.connection import connect
from service.jobs.model_generation import ModelGeneration
from service.jobs.reaper import Reaper
from service.jobs.record import Job, Status, new_job
from service.settings import Settings
from tests.conftest import RunningApi
from tests.processes import ModuleProcess
from tests.tiny_model import add_tiny_model
from tests.waiting import until
from tests.workers.conftest import SECONDS, Stack
from tests.workers.fake import parts
from tests.workers.slow_worker import HOLD, HOLD_JOBS
from workers.app import process_name
from workers.model_follower import ModelFollower
from workers.model_maker import ModelMaker
from workers.model_pool import ModelUnavailable
from workers.runner import Maker

pytestmark = pytest.mark.usefixtures("one_thread")


def add_model(models: Path, name: str, seed: int) -> None:
    """A model with a weight file, or other weights for one that is there, renamed into place."""
    network = build(CoupledUNet, PRESETS["tiny"].base)
    seeded_weights(network, seed)
    manifest = Manifest(
        name,
        replace(PRESETS["tiny"], sr=None),
        trained=True,
        description="",
        licence="MIT",
        base_weights=f"{seed}.safetensors",
        folder=models / f".{name}",
    )
    save_model(manifest, network, None)
    (models / name).mkdir(exist_ok=True)
    for path in sorted(manifest.folder.iterdir(), reverse=True):  # the manifest last
        path.replace(models / name / path.name)
    manifest.folder.rmdir()


@pytest.fixture
def stack(redis_url: str, tmp_path: Path) -> Iterator[Stack]:
    """A stack with a folder of models of its own: `tiny` and, with a weight file, `first`."""
    models = add_tiny_model(tmp_path / "models")
    add_model(models, "first", seed=1)
    settings = Settings(redis_url=redis_url, data=tmp_path / "data", models=models, default_model="tiny")
    stack = Stack(settings)
    yield stack
    stack.queue.close()


def models_of(stack: Stack) -> Path:
    assert stack.settings.models is not None
    return stack.settings.models


def queued(stack: Stack, model: str, held: Path | None = None) -> Job:
    """`held`: see HOLD_JOBS."""
    params = SamplingParams(seed=1, steps=2)
    job = new_job("generate", model, params, priority="normal", metadata={}, retention=timedelta(hours=1))
    if held is not None:
        (held / job.id).touch()
    stack.store.create(job)
    stack.queue.enqueue(job)
    return job


def weights_of(stack: Stack, job: Job) -> str:
    """The hash of the weights that made the job's output, as its manifest has it."""
    key = stack.store.get(job.id).outputs[0].files["manifest.json"]
    path = Path(stack.settings.storage_url) / key
    return str(json.loads(path.read_text())["model"]["weights_sha256"])


def hash_of(stack: Stack, model: str) -> str:
    return read_manifest(models_of(stack) / model / FILE_NAME).weights_hash


def patient(api: RunningApi) -> httpx.Client:
    """Answers may take long on a busy machine: a reload starts a process that loads torch."""
    return httpx.Client(base_url=api.url, timeout=SECONDS)


def test_a_reload_while_jobs_run(stack: Stack, run_api: Callable[[Settings], RunningApi], tmp_path: Path) -> None:
    """A running job keeps its weights, the next one has the new ones, a new model works, a removed one waits."""
    api = patient(run_api(stack.settings))
    worker = SlowWorker(stack.settings, {HOLD_JOBS: str(tmp_path)}, tmp_path / "worker.log")
    try:
        old = hash_of(stack, "first")
        running = queued(stack, "first", held=tmp_path)
        until(lambda: stack.store.look(running.id).progress, "it runs", SECONDS)
        until(stack.store.workers, "the worker is there", SECONDS)
        add_model(models_of(stack), "first", seed=2)
        add_model(models_of(stack), "second", seed=3)
        answer = api.post("/models/reload").json()
        assert (answer["added"], answer["changed"], answer["workers"]) == (["second"], ["first"], 1)
        jobs = [api.post("/generate", json={"model": name, "steps": 2}).json() for name in ("first", "second")]
        changed, added = (stack.ended(stack.store.get(job["id"])) for job in jobs)
        assert (changed.status, added.status) == (Status.COMPLETED, Status.COMPLETED)
        assert weights_of(stack, changed) == hash_of(stack, "first") != old
        assert stack.store.get(running.id).status is Status.IN_PROGRESS
        (tmp_path / running.id).unlink()
        assert stack.ended(running).status is Status.COMPLETED
        assert weights_of(stack, running) == old

        (models_of(stack) / "second").rename(tmp_path / "second")
        assert api.post("/models/reload").json()["removed"] == ["second"]
        waiting = queued(stack, "second")
        until(lambda: stack.store.get(waiting.id).model_missing_since, "it waits for a worker that has it", SECONDS)
        (tmp_path / "second").rename(models_of(stack) / "second")
        api.post("/models/reload").raise_for_status()
        assert stack.ended(waiting).strikes == 0
    finally:
        worker.stop(signal.SIGKILL)


class SlowWorker(ModuleProcess):
    """See `tests.workers.slow_worker`, for the variables `held` too."""

    def __init__(self, settings: Settings, held: dict[str, str], log: Path) -> None:
        environment = {
            "DUET_REDIS_URL": settings.redis_url,
            "DUET_DATA": str(settings.data),
            "DUET_MODELS": str(settings.models),
            "DUET_DEFAULT_MODEL": "tiny",
            "DUET_BUCKETS": "1",
            "DUET_PROVENANCE": "off",
            "OMP_NUM_THREADS": "1",
            **held,
        }
        super().__init__(["tests.workers.slow_worker"], environment, log)


def test_a_job_says_that_its_model_is_loaded_and_outlives_its_worker(
    redis_url: str, run_api: Callable[[Settings], RunningApi], tmp_path: Path
) -> None:
    models = add_tiny_model(tmp_path / "models")
    replace(read_manifest(models / "tiny" / FILE_NAME), name="other", init_seed=8).write(_made(models / "other"))
    settings = Settings(redis_url=redis_url, data=tmp_path / "data", models=models, default_model="tiny")
    stack, hold = Stack(settings), tmp_path / "hold"
    held = {HOLD: str(hold), "DUET_MODEL_MEMORY": "1"}  # room for one model
    api = patient(run_api(settings))
    worker = SlowWorker(settings, held, tmp_path / "worker.log")
    try:
        first = queued(stack, "tiny")
        until(lambda: stack.store.get(first.id).status is Status.COMPLETED, "the worker works", SECONDS)
        hold.touch()
        job = queued(stack, "other")

        def shown() -> dict[str, Any]:
            found: dict[str, Any] = api.get(f"/jobs/{job.id}").json()
            return found

        seen = until(lambda: (view := shown())["waiting_for"] and view, "it says that it waits", SECONDS)
        assert (seen["status"], seen["attempt"], seen["waiting_for"]["code"]) == ("queued", 1, "model_loading")
        assert "loading the model 'other'" in seen["waiting_for"]["message"]
        worker.stop(signal.SIGKILL)
        hold.unlink()
        Reaper(stack.store, stack.queue).worker_died(process_name(worker.process.pid))  # as `duet serve` does
        worker = SlowWorker(settings, held, tmp_path / "worker.log")
        until(lambda: stack.store.get(job.id).status.ended, "it runs after all", SECONDS)
        ended = stack.store.get(job.id)
        assert (ended.status, ended.strikes) == (Status.COMPLETED, 0)
        assert shown()["waiting_for"] is None
    finally:
        worker.stop(signal.SIGKILL)
        stack.queue.close()


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def maker(stack: Stack) -> Iterator[ModelMaker]:
    """In this process, with room for one model: each takes a byte."""
    patch = pytest.MonkeyPatch()
    from workers import model_maker

    load = model_maker._load
    patch.setattr(model_maker, "_load", lambda *arguments: (load(*arguments)[0], 1))
    patch.setattr("model.checkpoint.manifest.BUILTIN", models_of(stack))
    maker = ModelMaker.load(stack.settings.model_copy(update={"model_memory": 1, "buckets": "1", "provenance": "off"}))
    yield maker
    maker.stop()
    maker.close()
    patch.undo()


def test_unloading_frees_the_weights_at_once(stack: Stack, maker: ModelMaker) -> None:
    """Also what the garbage collector does not see, because it is frozen."""
    gc.collect()
    gc.disable()
    try:
        with maker.models.use("first") as pipeline:
            assert pipeline.evaluator.base is not None
            tensors = [weakref.ref(each) for each in pipeline.evaluator.base.parameters()]
        assert all(each() is not None for each in tensors)
        with maker.models.use("tiny"):
            assert [each.manifest.name for each in maker.models.pipelines] == ["tiny"]
            assert all(each() is None for each in tensors), "the old pipeline is still held here, its weights are not"
    finally:
        gc.enable()


def test_jobs_alternate_between_models_that_do_not_fit_together(stack: Stack, maker: ModelMaker) -> None:
    runner = parts(stack, maker)[0]
    jobs = [queued(stack, name) for name in ("tiny", "first")]
    for job in jobs:
        runner.run(job.id)
        assert (stack.store.get(job.id).status, stack.store.get(job.id).strikes) == (Status.COMPLETED, 0)
    assert maker.models.totals.loads["first"] == 2, "at the start, and for its job"


def test_a_worker_refuses_broken_folders_whole_and_takes_them_once_they_are_repaired(
    stack: Stack, maker: ModelMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation = ModelGeneration(connect(stack.settings))
    outcomes: list[bool] = []
    follower = ModelFollower(generation, maker, outcomes.append)
    follower.look()
    follower.look()
    assert outcomes == [True], "it reads once"
    add_model(models_of(stack), "second", seed=3)
    weights = models_of(stack) / "first" / "1.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    generation.advance()
    follower.look()
    follower.look()
    assert outcomes == [True, False], "it waits before it reads again"
    assert not maker.serves("second")
    weights.write_bytes(whole)
    monkeypatch.setattr("workers.model_follower.REFUSED_RETRY", 0)
    follower.look()
    assert outcomes == [True, False, True]
    assert maker.serves("second")
    assert maker.serves("first")


@pytest.mark.parametrize("error", [BrokenModel("first", "incomplete"), PermissionError(13, "Permission denied")])
def test_a_refusal_is_logged_until_it_changes_and_retried_later(
    redis_url: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing:
        def reload(self) -> None:
            raise error

    logged: list[str] = []
    outcomes: list[bool] = []
    monkeypatch.setattr("workers.model_follower.log", SimpleNamespace(error=lambda text, **_: logged.append(text)))
    generation = ModelGeneration(connect(Settings(redis_url=redis_url)))
    follower = ModelFollower(generation, cast("Maker", Failing()), outcomes.append)
    follower.look()
    follower.look()
    assert outcomes == [False], "it waits before it reads again"
    monkeypatch.setattr("workers.model_follower.REFUSED_RETRY", 0)
    follower.look()
    assert (outcomes, len(logged)) == ([False, False], 1)
    error.args = ("another reason",)
    follower.look()
    assert len(logged) == 2


def test_weights_that_do_not_fit_are_refused(stack: Stack, maker: ModelMaker) -> None:
    add_model(models_of(stack), "second", seed=3)
    manifest = read_manifest(models_of(stack) / "second" / FILE_NAME)
    config = replace(manifest.config, base=replace(manifest.config.base, channels=2 * manifest.config.base.channels))
    replace(manifest, config=config).write(manifest.folder)
    with pytest.raises(BrokenModel, match="tensors do not fit the network"):
        maker.reload()
    assert not maker.serves("second")


def test_weights_that_were_replaced_without_a_reload_are_not_loaded(stack: Stack, maker: ModelMaker) -> None:
    assert not maker.models.is_loaded("first")
    weights = models_of(stack) / "first" / "1.safetensors"
    copy = weights.with_suffix(".new")
    copy.write_bytes(weights.read_bytes())
    os.replace(copy, weights)
    runner = parts(stack, maker)[0]
    job = queued(stack, "first")
    runner.run(job.id)
    left = stack.store.get(job.id)
    assert (left.status, left.strikes, left.holder) == (Status.QUEUED, 0, None)
    assert left.model_missing_since is not None
    maker.reload()
    runner.run(job.id)
    assert stack.store.get(job.id).status is Status.COMPLETED


def test_a_model_that_cannot_be_warmed_up_is_released(maker: ModelMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    released = []

    def warm_up(pipeline: Pipeline, *arguments: object) -> int:
        assert pipeline.evaluator.base is not None
        released.append(weakref.ref(next(pipeline.evaluator.base.parameters())))
        raise MemoryError("the device is full")

    monkeypatch.setattr("workers.model_maker.warm_up", warm_up)
    with pytest.raises(ModelUnavailable, match="the device is full"), maker.models.use("first"):
        pass
    assert released[0]() is None
