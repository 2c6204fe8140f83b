"""The parts of a clip on their way from the engine to the thread that writes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest
import torch

from model.runtime.engine import Engine, EngineRun
from model.runtime.pipeline import ClipPart, ClipRequest, Pipeline, StepProgress
from tests.model.runtime.conftest import pipeline  # noqa: F401
from tests.model.runtime.test_long_clips import QUICK
from tests.waiting import until
from workers.run_events import RunEvent, RunEvents

pytestmark = pytest.mark.usefixtures("one_thread")


@contextmanager
def running() -> Iterator[Engine]:
    engine = Engine(capacity=4)
    engine.start()
    try:
        yield engine
    finally:
        engine.close(KeyError("done"))
        engine.join()


def arriving(events: RunEvents) -> Iterator[RunEvent]:
    """Events one by one, to the end of a run."""
    while True:
        for index, item in events.take(60):
            yield index, item
            if isinstance(item, EngineRun):
                return


def test_the_engine_makes_no_more_parts_than_are_written(pipeline: Pipeline) -> None:  # noqa: F811
    params = replace(QUICK, steps=1, duration=4.0, super_resolution=True, sr_steps=1)
    request = ClipRequest("generate", params)
    made: list[int] = []
    written: list[ClipPart] = []
    with running() as engine:
        events = RunEvents(1, engine.soon, most=2)

        def put(part: ClipPart) -> None:
            made.append(part.start)
            events.part(0, part)

        program = pipeline.program(request, on_part=put)
        run = engine.submit(pipeline.evaluator, program, long=True, held=partial(events.full, 0))
        run.add_done_callback(partial(events.end, 0))
        for _, item in arriving(events):
            if isinstance(item, ClipPart):
                until(lambda: engine.busy_for == 0 or run.done(), "the engine waits")
                written.append(item)
                assert len(made) <= len(written) + 1
                events.written(0)
    assert [part.start for part in written] == list(range(0, 40, 4))
    whole = pipeline.run(request)
    assert torch.equal(torch.cat([part.frames for part in written if part.frames is not None]), whole.frames)


def test_a_clip_that_fails_ends_its_parts_with_the_error(pipeline: Pipeline) -> None:  # noqa: F811
    def stop(progress: StepProgress) -> None:
        if (progress.stage, progress.step) == ("sr", 3):
            raise ArithmeticError("enough")

    params = replace(QUICK, steps=1, super_resolution=True, sr_steps=1)
    with running() as engine:
        events = RunEvents(1, engine.soon)
        program = pipeline.program(ClipRequest("generate", params), stop, partial(events.part, 0))
        engine.submit(pipeline.evaluator, program, long=True).add_done_callback(partial(events.end, 0))
        *parts, (_, run) = arriving(events)
    assert [item.start for _, item in parts if isinstance(item, ClipPart)] == [0, 4]
    assert isinstance(run, EngineRun)
    assert isinstance(run.exception(), ArithmeticError)
