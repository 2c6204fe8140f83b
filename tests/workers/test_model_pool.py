"""Which models are loaded: by memory, by latest use, and in turn."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from model.checkpoint.manifest import Manifest
from model.checkpoint.model_folders import Version
from model.networks.config import PRESETS
from tests.waiting import until
from workers.model_pool import ModelPool, ModelTooLarge, ModelUnavailable


def version(name: str, file_size: int = 0, seed: int = 0) -> Version:
    manifest = Manifest(name, PRESETS["tiny"], trained=False, description="", licence="MIT", init_seed=seed)
    return Version(manifest, ((0, 0, file_size, 0, 0),))


class Memory:
    """Loads models of given sizes, and knows which are loaded. `gates`: loads of these models wait for their event."""

    def __init__(self, **sizes: int) -> None:
        self.sizes = sizes
        self.loaded: list[Any] = []
        self.most = 0
        self.loads: list[str] = []
        self.gates: dict[str, threading.Event] = {}
        self.broken: set[str] = set()

    def load(self, version: Version) -> tuple[Any, int]:
        name = version.manifest.name
        if name in self.gates:
            assert self.gates[name].wait(60)
        if name in self.broken:
            raise ValueError("the disk is gone")
        pipeline = SimpleNamespace(manifest=version.manifest)
        self.loaded.append(pipeline)
        self.loads.append(name)
        self.most = max(self.most, sum(self.sizes[each.manifest.name] for each in self.loaded))
        return pipeline, self.sizes[name]

    def unload(self, pipeline: Any) -> None:
        self.loaded.remove(pipeline)

    @property
    def names(self) -> list[str]:
        return sorted(pipeline.manifest.name for pipeline in self.loaded)

    @property
    def versions(self) -> dict[str, Version]:
        return {name: version(name, size) for name, size in self.sizes.items()}

    def pool(self, budget: int | None = None) -> ModelPool:
        """With all models loaded once."""
        pool = ModelPool(self.versions, self.load, self.unload, budget)
        pool.load_all()
        self.loads.clear()
        return pool


class User:
    """A job that uses a model in a thread of its own, until `end`."""

    def __init__(self, pool: ModelPool, name: str, began: list[str] | None = None) -> None:
        self.waits, self.began, self.ending, self.stopped = (threading.Event() for _ in range(4))
        self.error: Exception | None = None

        def check() -> None:
            if self.stopped.is_set():
                raise InterruptedError(name)

        def run() -> None:
            try:
                with pool.use(name, check, self.waits.set) as pipeline:
                    self.pipeline = pipeline
                    if began is not None:
                        began.append(name)
                    self.began.set()
                    assert self.ending.wait(60)
            except Exception as error:
                self.error = error

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def end(self) -> None:
        self.ending.set()
        self.thread.join(60)
        assert not self.thread.is_alive()


@pytest.fixture
def start() -> Iterator[Callable[..., User]]:
    users: list[User] = []

    def start(*arguments: Any) -> User:
        users.append(User(*arguments))
        return users[-1]

    yield start
    for user in users:
        user.end()


def runs(user: User) -> User:
    until(lambda: user.began.is_set() or user.error, "the job begins")
    if user.error is not None:
        raise user.error
    return user


def waits(user: User) -> User:
    assert user.waits.wait(60)
    return user


def test_without_a_budget_all_models_stay_loaded() -> None:
    memory = Memory(a=10**15, b=10**15)
    pool = memory.pool()
    for name in ("a", "b", "a"):
        with pool.use(name, waits=lambda: pytest.fail("nothing to wait for")) as pipeline:
            assert pipeline.manifest.name == name
    assert memory.loads == []
    assert pool.totals.unloads == {}


def test_the_model_used_least_recently_makes_room() -> None:
    memory = Memory(a=1, b=1, c=1)
    pool = memory.pool(budget=2)
    assert memory.names == ["b", "c"]
    with pool.use("b"):
        pass
    with pool.use("a"):
        assert memory.names == ["a", "b"]
    with pool.use("c"):
        assert memory.names == ["a", "c"]
    assert memory.loads == ["a", "c"]
    assert memory.most == 2
    assert pool.memory() == {"a": 1, "b": 0, "c": 1}


def test_a_large_model_replaces_as_many_as_it_must() -> None:
    memory = Memory(a=1, b=1, large=3)
    pool = memory.pool(budget=4)
    assert memory.names == ["b", "large"]
    with pool.use("a"), pool.use("b"):
        assert memory.names == ["a", "b"]
    with pool.use("large"):
        assert memory.names == ["b", "large"]
    assert memory.most == 4


def test_a_busy_model_is_unloaded_only_after_its_jobs(start: Callable[..., User]) -> None:
    memory = Memory(a=1, b=1)
    pool = memory.pool(budget=1)
    first = runs(start(pool, "a"))
    second = waits(start(pool, "b"))
    assert memory.names == ["a"]
    assert not second.began.is_set()
    first.end()
    runs(second)
    assert memory.names == ["b"]


def test_a_stream_of_jobs_does_not_starve_another_model(start: Callable[..., User]) -> None:
    """A job for the loaded model that comes after one for the other waits behind it."""
    memory, order = Memory(a=1, b=1), []
    pool = memory.pool(budget=1)
    first = runs(start(pool, "a", order))
    other = waits(start(pool, "b", order))
    later = waits(start(pool, "a", order))
    first.end()
    runs(other)
    assert not later.began.is_set()
    other.end()
    runs(later)
    assert order == ["a", "b", "a"]


def test_all_jobs_in_the_line_begin_with_one_load(start: Callable[..., User]) -> None:
    memory = Memory(a=1, b=1)
    pool = memory.pool(budget=1)
    first = runs(start(pool, "a"))
    others = [waits(start(pool, "b")) for _ in range(3)]
    first.end()
    for other in others:
        runs(other)
    assert memory.loads.count("b") == 1


def test_jobs_of_a_model_that_stays_go_on_while_another_is_loaded(start: Callable[..., User]) -> None:
    memory = Memory(a=1, b=1, c=1)
    pool = memory.pool(budget=2)
    with pool.use("c"):
        pass
    memory.gates["a"] = threading.Event()
    loading = waits(start(pool, "a"))
    until(lambda: memory.names == ["c"], "the other idle model has made room")
    with pool.use("c", waits=lambda: pytest.fail("it waits")):
        assert not loading.began.is_set()
    memory.gates["a"].set()
    runs(loading)


def test_models_that_alternate_in_many_threads_all_get_their_turn() -> None:
    memory = Memory(a=2, b=2, c=1)
    pool = memory.pool(budget=3)

    def job(number: int) -> str:
        with pool.use("abc"[number % 3]) as pipeline:
            assert pipeline in memory.loaded
            return str(pipeline.manifest.name)

    with ThreadPoolExecutor(5) as jobs:
        assert list(jobs.map(job, range(60))) == [*"abc"] * 20
    assert memory.most <= 3


def test_a_job_that_is_cancelled_in_the_line_holds_up_nobody(start: Callable[..., User]) -> None:
    memory = Memory(a=1, b=1)
    pool = memory.pool(budget=1)
    runs(start(pool, "a"))
    other = waits(start(pool, "b"))
    other.stopped.set()
    other.thread.join(60)
    assert isinstance(other.error, InterruptedError)
    with pool.use("a", waits=lambda: pytest.fail("it waits for nobody")):
        assert memory.names == ["a"]


def test_a_job_that_is_admitted_while_it_gives_up_leaves_its_model(start: Callable[..., User]) -> None:
    memory = Memory(a=1)
    memory.gates["a"] = threading.Event()
    pool = ModelPool(memory.versions, memory.load, memory.unload)
    other = start(pool, "a")
    until(lambda: pool._loading, "the other job loads the model")

    def finish_load() -> None:
        memory.gates["a"].set()
        runs(other)

    def cancelled() -> None:
        pool._changed = _Delayed(pool._changed, finish_load)
        raise InterruptedError

    with pytest.raises(InterruptedError), pool.use("a", cancelled):
        pass
    assert pool._models["a"].users == 1
    other.end()
    pool.take({})
    assert memory.names == [], "nobody uses it any more"


class _Delayed(threading.Condition):
    """Calls `first` before the lock is acquired for the next time."""

    def __init__(self, condition: threading.Condition, first: Callable[[], None]) -> None:
        super().__init__(condition._lock)  # type: ignore[attr-defined]
        self._first: Callable[[], None] | None = first

    def __enter__(self) -> bool:
        first, self._first = self._first, None
        if first is not None:
            first()
        return super().__enter__()


def test_a_failed_load_keeps_nothing_in_memory() -> None:
    class Weights:
        pass

    kept: list[weakref.ref[Weights]] = []

    def load(version: Version) -> tuple[Any, int]:
        weights = Weights()
        kept.append(weakref.ref(weights))
        try:
            raise KeyError("tensor")
        except KeyError as error:
            raise ValueError("the disk is gone") from error

    pool = ModelPool({"a": version("a")}, load, lambda pipeline: None)
    with pytest.raises(ModelUnavailable, match="the disk is gone"), pool.use("a"):
        pass
    gc.collect()
    assert kept[0]() is None


def test_a_model_larger_than_the_budget_is_refused_at_the_start() -> None:
    memory = Memory(a=1, large=3 * 2**20)
    with pytest.raises(ModelTooLarge, match=r"'large' needs 3 MiB, and DUET_MODEL_MEMORY is 2 MiB"):
        memory.pool(budget=2 * 2**20)
    assert "large" not in memory.names, "its memory is free again"


def test_a_model_that_cannot_be_loaded_is_not_served_until_it_can() -> None:
    memory = Memory(a=1, b=1)
    pool = memory.pool(budget=1)
    memory.broken.add("a")
    with pytest.raises(ModelUnavailable, match="the disk is gone"), pool.use("a"):
        pass
    assert (pool.serves("a"), pool.serves("b")) == (False, True)
    memory.broken.clear()
    pool.preload()
    assert not pool.serves("a"), "it is not tried at once"
    pool._models["a"].retry_at = 0
    pool.preload()
    assert pool.serves("a")
    assert memory.names == ["a"], "an idle model has made room"
    assert pool.totals.failures == {"a": 1}


def test_a_changed_model_serves_new_jobs_while_its_old_ones_finish(start: Callable[..., User]) -> None:
    memory = Memory(a=1, b=1)
    pool = memory.pool()
    old = runs(start(pool, "a"))
    pool.take({"a": version("a", seed=1), "b": pool.versions["b"]})
    with pool.use("a") as pipeline:
        assert (old.pipeline.manifest.init_seed, pipeline.manifest.init_seed) == (0, 1)
        assert memory.names == ["a", "a", "b"]
        assert pool.memory() == {"a": 2, "b": 1}
    old.end()
    assert memory.names == ["a", "b"], "the old weights are gone with their last job"
    assert memory.loads == ["a"], "what has not changed was not loaded again"


def test_a_job_in_the_line_gets_the_new_version_or_learns_that_the_model_is_gone(start: Callable[..., User]) -> None:
    memory = Memory(a=1, b=1, c=1)
    pool = memory.pool(budget=1)
    first = runs(start(pool, "c"))
    changed, removed = waits(start(pool, "a")), waits(start(pool, "b"))
    pool.take({"a": version("a", seed=1), "c": pool.versions["c"]})
    removed.thread.join(60)
    assert isinstance(removed.error, ModelUnavailable)
    first.end()
    assert runs(changed).pipeline.manifest.init_seed == 1
    with pytest.raises(ModelUnavailable), pool.use("b"):
        pass


def test_models_are_loaded_ahead_as_far_as_there_is_room() -> None:
    for budget, loaded in ((1, ["a"]), (None, ["a", "b"])):
        memory = Memory(a=1, b=1)
        pool = ModelPool({}, memory.load, memory.unload, budget)
        pool.take(memory.versions)
        pool.preload()
        assert memory.names == loaded


def test_a_model_that_turns_out_larger_than_its_files_makes_room_afterwards() -> None:
    memory = Memory(a=2, b=2)
    pool = ModelPool({name: version(name, 1) for name in "ab"}, memory.load, memory.unload, budget=3)
    pool.load_all(last="a")
    assert memory.names == ["a"]


def test_a_job_whose_model_is_gone_leaves_the_next_load_to_the_others(start: Callable[..., User]) -> None:
    """It may be the first to notice that there is room now."""
    for _ in range(20):
        memory = Memory(a=1, b=1, c=1)
        pool = memory.pool(budget=1)
        first = runs(start(pool, "c"))
        changed, removed = waits(start(pool, "a")), waits(start(pool, "b"))
        pool.take({"a": version("a"), "c": pool.versions["c"]})
        first.end()
        runs(changed).end()
        removed.end()
