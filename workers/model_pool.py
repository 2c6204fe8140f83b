"""The models of a worker: which of them are loaded, and who uses them.

A budget bounds the memory of the loaded models. A job for a model that is not loaded waits in one line with the others;
for the first in the line, the models least recently used are unloaded, idle ones before busy ones. A busy one takes no
further job and is unloaded when its jobs have ended, so that a stream of jobs for one model cannot keep another waiting
for longer than the jobs that run. All jobs in the line for a model that has been loaded begin together. Jobs of models
that stay loaded never wait.

A model that is replaced or removed serves the jobs that have begun, and is unloaded after the last.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from model.checkpoint.manifest import Manifest
from model.checkpoint.model_folders import Version
from service.log import log
from workers.runner import BackInQueue

if TYPE_CHECKING:
    from model.runtime.pipeline import Pipeline

POLL_INTERVAL = 0.5
"""Seconds between two checks whether a waiting job was canceled."""

RETRY, LONGEST_RETRY = 30.0, 600.0
"""Seconds until a failed load is retried: after the first failure, and at most."""


class ModelUnavailable(Exception):
    """This worker does not have the model, or cannot load it; the message is the reason."""


class ModelTooLarge(ValueError):
    """A model needs more memory than all models may have."""

    def __init__(self, name: str, size: int, budget: int) -> None:
        super().__init__(
            f"the model {name!r} needs {size / 2**20:,.0f} MiB, and DUET_MODEL_MEMORY is {budget / 2**20:,.0f} MiB"
        )


@dataclass(eq=False)
class PooledModel:
    """One version of a model. `size` is its memory in bytes, known once it has been loaded. `users` jobs run it; `used`
    numbers the latest of them. `draining`: it takes no further job, because it is to be unloaded for another."""

    version: Version
    pipeline: Pipeline | None = None
    size: int | None = None
    users: int = 0
    used: int = 0
    draining: bool = False
    failure: Exception | None = None
    retry_at: float = 0.0
    pause: float = RETRY

    @property
    def name(self) -> str:
        return self.version.manifest.name

    @property
    def expected_size(self) -> int:
        """Bytes; before it was loaded, those of its weight files."""
        return self.size if self.size is not None else sum(stamp[2] for stamp in self.version.stamps)


@dataclass(eq=False)
class _Ticket:
    """A job that waits for `model`, which is None once the model has been removed."""

    model: PooledModel | None
    admitted: bool = False


@dataclass
class Totals:
    """Since the start, by model; `seconds` of its loads."""

    loads: Counter[str]
    unloads: Counter[str]
    failures: Counter[str]
    seconds: defaultdict[str, float]


class ModelPool:
    """The models of `versions`, by name. None is loaded until `load_all` or its first use.

    `load` returns the pipeline of a version, warmed up, and the bytes of memory that it takes; `unload` frees them.
    Both are called by one thread at a time, and without a lock. `budget`: bytes of all loaded models; None: no limit.
    """

    def __init__(
        self,
        versions: Mapping[str, Version],
        load: Callable[[Version], tuple[Pipeline, int]],
        unload: Callable[[Pipeline], None],
        budget: int | None = None,
    ) -> None:
        self.totals = Totals(Counter(), Counter(), Counter(), defaultdict(float))
        self._load = load
        self._unload = unload
        self._budget = budget
        self._models = {name: PooledModel(version) for name, version in versions.items()}
        self._loaded: list[PooledModel] = []
        self._line: list[_Ticket] = []
        self._loading: PooledModel | None = None
        self._uses = 0
        self._changed = threading.Condition()

    @classmethod
    def of(cls, pipelines: Mapping[str, Pipeline]) -> ModelPool:
        """A pool of loaded models, all of which stay."""

        def load(version: Version) -> tuple[Pipeline, int]:
            return pipelines[version.manifest.name], 0

        pool = cls({name: Version(each.manifest, ()) for name, each in pipelines.items()}, load, lambda pipeline: None)
        pool.load_all()
        return pool

    def serves(self, name: str) -> bool:
        """Whether jobs of this model can run here, after a load if need be."""
        model = self._models.get(name)
        return model is not None and model.failure is None

    def manifest(self, name: str) -> Manifest | None:
        """The manifest of this model; None if there is no such model."""
        model = self._models.get(name)
        return model.version.manifest if model is not None else None

    @property
    def versions(self) -> dict[str, Version]:
        return {name: model.version for name, model in self._models.items()}

    @property
    def pipelines(self) -> list[Pipeline]:
        """Those of the loaded models, also of those that were replaced and still run."""
        with self._changed:
            return [model.pipeline for model in self._loaded if model.pipeline is not None]

    def memory(self) -> dict[str, int]:
        """Bytes of every model by name; 0 for one that is not loaded."""
        with self._changed:
            sizes: Counter[str] = Counter(dict.fromkeys(self._models, 0))
            for model in self._loaded:
                sizes[model.name] += model.size or 0
            return dict(sizes)

    def is_loaded(self, name: str) -> bool:
        """Whether the current version of this model is loaded."""
        model = self._models.get(name)
        return model is not None and model.pipeline is not None

    def load_all(self, last: str | None = None) -> None:
        """Load every model once, `last` as the last; what the budget has room for stays loaded.

        Raises what `load` raises, and ModelTooLarge.
        """
        for model in sorted(self._models.values(), key=lambda model: model.name == last):
            with self._changed:
                victims = self._take_out(self._victims(model))
                self._loading = model
            self._perform(model, victims)
            if model.failure is not None:
                raise model.failure

    def take(self, versions: Mapping[str, Version]) -> None:
        """Serve these models from now on. Versions with the manifest of a present one continue it; jobs in the line get
        the new version of their model."""
        with self._changed:
            models = {}
            for name, version in versions.items():
                present = self._models.get(name)
                if present is not None and present.version.manifest is version.manifest:
                    present.version, present.failure, models[name] = version, None, present
                else:
                    models[name] = PooledModel(version)
            for ticket in self._line:
                ticket.model = models.get(ticket.model.name) if ticket.model is not None else None
            self._models = models
        self._drop_surplus()

    def preload(self) -> None:
        """While no job waits, load the models that fit into the budget, and retry those that could not be loaded."""
        while True:
            with self._changed:
                model = None if self._loading or self._line else self._next_preload()
                if model is None:
                    return
                victims = self._take_out(self._victims(model))
                self._loading = model
            self._perform(model, victims)

    @contextmanager
    def use(
        self, name: str, check: Callable[[], None] = lambda: None, waits: Callable[[], None] = lambda: None
    ) -> Iterator[Pipeline]:
        """The pipeline of this model, which stays loaded for the block. `waits` is called once if the block has to wait
        for it, `check` now and then meanwhile. Raises ModelUnavailable, and what they raise."""
        model = self._enter(name, check, waits)
        try:
            assert model.pipeline is not None
            yield model.pipeline
        finally:
            self._leave(model)

    def _enter(self, name: str, check: Callable[[], None], waits: Callable[[], None]) -> PooledModel:
        with self._changed:
            model = self._models.get(name)
            if model is None:
                raise ModelUnavailable(f"this worker does not have the model {name!r}")
            if model.pipeline is not None and not model.draining:
                self._admit(model)
                return model
            ticket = _Ticket(model)
            self._line.append(ticket)
            self._mark_draining()
        try:
            waits()
            while True:
                with self._changed:
                    self._mark_draining()
                    self._admit_waiting()
                    if ticket.admitted:
                        assert ticket.model is not None
                        return ticket.model
                    if ticket.model is None:
                        raise ModelUnavailable(f"this worker no longer has the model {name!r}")
                    if ticket.model.failure is not None:
                        raise ModelUnavailable(f"the model {name!r} cannot be loaded: {ticket.model.failure}")
                    task = self._next_load()
                    if task is None:
                        self._changed.wait(POLL_INTERVAL)
                if task is not None:
                    self._perform(*task)
                check()
        except BaseException:
            self._give_up(ticket)
            raise

    def _give_up(self, ticket: _Ticket) -> None:
        with self._changed:  # another thread may admit the job until now
            admitted = ticket.model if ticket.admitted else None
            if admitted is None:
                self._line.remove(ticket)
                self._mark_draining()
                self._changed.notify_all()
        if admitted is not None:
            self._leave(admitted)

    def _leave(self, model: PooledModel) -> None:
        with self._changed:
            model.users -= 1
            self._changed.notify_all()
        self._drop_surplus()

    def _admit(self, model: PooledModel) -> None:
        self._uses += 1
        model.used = self._uses
        model.users += 1

    def _admit_waiting(self) -> None:
        """Admit the jobs in the line whose model is loaded and stays."""
        for ticket in list(self._line):
            if ticket.model is not None and ticket.model.pipeline is not None and not ticket.model.draining:
                self._line.remove(ticket)
                ticket.admitted = True
                self._admit(ticket.model)

    def _mark_draining(self) -> None:
        """Keep further jobs from the models that have to make room for the first in the line."""
        first = self._first()
        victims = self._victims(first) if first is not None and first is not self._loading else []
        for model in self._loaded:
            model.draining = model in victims

    def _next_load(self) -> tuple[PooledModel, list[Pipeline]] | None:
        """The model to load now, and what to unload before; the caller must perform it. None if nothing can be loaded
        now."""
        first = self._first()
        if first is None or self._loading is not None:
            return None
        victims = self._victims(first)
        if any(model.users for model in victims):
            return None
        self._loading = first
        return first, self._take_out(victims)

    def _first(self) -> PooledModel | None:
        """The model to be loaded next for the jobs in the line."""
        waiting = (ticket.model for ticket in self._line if ticket.model is not None and ticket.model.failure is None)
        return next((model for model in waiting if model.pipeline is None), None)

    def _next_preload(self) -> PooledModel | None:
        """The next model to load without being asked."""
        for model in self._models.values():
            if model.pipeline is None and (model.failure is None or time.monotonic() >= model.retry_at):
                victims = self._victims(model)
                # One that has failed serves no job until it is loaded, so it may replace idle ones.
                if not victims or (model.failure is not None and not any(each.users for each in victims)):
                    return model
        return None

    def _victims(self, model: PooledModel) -> list[PooledModel]:
        """The models that must be unloaded before `model` can be loaded: idle ones first, then by latest use."""
        if self._budget is None:
            return []
        missing = sum(each.size or 0 for each in self._loaded) + min(model.expected_size, self._budget) - self._budget
        victims = []
        for each in sorted(self._loaded, key=lambda each: (each.users > 0, each.used)):
            if missing <= 0:
                break
            victims.append(each)
            missing -= each.size or 0
        return victims

    def _take_out(self, models: list[PooledModel]) -> list[Pipeline]:
        """Mark these models as unloaded; return the pipelines to unload."""
        pipelines = []
        for model in models:
            assert model.pipeline is not None
            pipelines.append(model.pipeline)
            model.pipeline, model.draining = None, False
            self._loaded.remove(model)
            self.totals.unloads[model.name] += 1
        return pipelines

    def _perform(self, model: PooledModel, victims: list[Pipeline]) -> None:
        """Unload `victims` and load `model`, whose `failure` says whether that failed. Raises BackInQueue if the engine
        is closed."""
        began, failure, loaded = time.monotonic(), None, None
        try:
            self._unload_all(victims)
            loaded = self._load(model.version)
        except BackInQueue:
            raise
        except Exception as error:
            # Kept until the next attempt: the frames of its traceback would keep the weights in memory.
            failure = error.with_traceback(None)
            failure.__cause__ = failure.__context__ = None
        finally:
            with self._changed:
                self._loading = None
                if loaded is not None:
                    failure = self._enter_loaded(model, *loaded)
                    self.totals.seconds[model.name] += time.monotonic() - began
                model.failure = failure
                if failure is not None:
                    self.totals.failures[model.name] += 1
                    model.retry_at, model.pause = time.monotonic() + model.pause, min(2 * model.pause, LONGEST_RETRY)
                self._admit_waiting()
                self._changed.notify_all()
        if failure is not None:
            log.error("model not loaded", model=model.name, reason=str(failure))
            if loaded is not None:
                self._unload_all([loaded[0]])
        self._drop_surplus()

    def _enter_loaded(self, model: PooledModel, pipeline: Pipeline, size: int) -> Exception | None:
        if model.size is None:  # measured anew it would differ a little, which must not make a model too large
            model.size = size
        if self._budget is not None and model.size > self._budget:
            return ModelTooLarge(model.name, model.size, self._budget)
        model.pipeline, model.draining, model.pause = pipeline, False, RETRY
        self._loaded.append(model)
        self._uses += 1
        model.used = self._uses
        self.totals.loads[model.name] += 1
        return None

    def _drop_surplus(self) -> None:
        """Unload idle models that were replaced or removed, and those above the budget: sizes are known late."""
        with self._changed:
            current = set(map(id, self._models.values()))
            surplus = [model for model in self._loaded if id(model) not in current and not model.users]
            if self._budget is not None:
                excess = sum(each.size or 0 for each in self._loaded if each not in surplus) - self._budget
                for model in sorted(self._loaded, key=lambda each: each.used)[:-1]:
                    if excess > 0 and not model.users and model not in surplus:
                        surplus.append(model)
                        excess -= model.size or 0
            pipelines = self._take_out(surplus)
            self._changed.notify_all()
        self._unload_all(pipelines)

    def _unload_all(self, pipelines: list[Pipeline]) -> None:
        for pipeline in pipelines:
            self._unload(pipeline)
            log.info("model unloaded", model=pipeline.manifest.name)
