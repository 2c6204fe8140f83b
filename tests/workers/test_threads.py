"""A worker on a CPU computes with all its threads in the engine, and with one in jobs and later loads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from model.runtime.evaluator import Evaluator
from service.settings import Settings
from tests.tiny_model import add_tiny_model, add_words_model
from tests.workers.conftest import Stack
from tests.workers.fake import parts
from workers import model_maker
from workers.model_maker import ModelMaker

THREADS = 3


@pytest.fixture
def restored_number() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Seen:
    """The threads in which a function ran, and their numbers of threads."""

    def __init__(self) -> None:
        self.by: list[tuple[threading.Thread, int]] = []

    def noting(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any, **options: Any) -> Any:
            self.by.append((threading.current_thread(), torch.get_num_threads()))
            return function(*arguments, **options)

        return noted

    @property
    def numbers(self) -> set[int]:
        return {number for _, number in self.by}


@pytest.mark.usefixtures("restored_number")
def test_the_engine_computes_with_all_threads_jobs_and_later_loads_with_one(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = add_tiny_model(tmp_path / "models")
    monkeypatch.setattr("model.checkpoint.manifest.BUILTIN", models)
    loads, jobs, forwards = Seen(), Seen(), Seen()
    monkeypatch.setattr(model_maker, "_load", loads.noting(model_maker._load))
    monkeypatch.setattr(model_maker, "decode_condition", jobs.noting(model_maker.decode_condition))
    settings = Settings(redis_url=redis_url, data=tmp_path / "data", models=models, default_model="tiny")
    stack = Stack(settings)
    maker = ModelMaker.load(settings.model_copy(update={"threads": THREADS, "buckets": "1", "provenance": "off"}))
    try:
        assert loads.numbers == {THREADS}
        assert not any(thread.is_alive() for thread, _ in loads.by), "its helpers would wait"
        monkeypatch.setattr(Evaluator, "__call__", forwards.noting(Evaluator.__call__))
        runner = parts(stack, maker)[0]
        job = stack.create(steps=2)
        runner.run(job.id)
        assert stack.store.get(job.id).outputs
        assert (jobs.numbers, forwards.numbers) == ({1}, {THREADS})

        loads.by.clear()
        add_words_model(tmp_path / "more")
        (tmp_path / "more" / "words").rename(models / "words")
        assert "words" in maker.reload().added
        maker.preload()
        assert loads.numbers == {1}
        assert forwards.numbers == {THREADS}, "the engine warms it up"
    finally:
        maker.stop()
        maker.close()
        stack.queue.close()
