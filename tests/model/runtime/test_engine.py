"""The engine with an evaluator that is watched and can be held up: who shares a batch, who leaves it, who fails."""

from __future__ import annotations

import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest
import torch

from model.networks.config import ScheduleConfig, UNetConfig
from model.networks.pair import Pair
from model.runtime.batch_sizes import BatchSizes
from model.runtime.engine import Engine
from model.runtime.evaluator import Evaluator, Program, Request
from model.sampling.latents import Latents
from model.sampling.samplers import Evaluate, EvaluateAll, EvaluateFrames, Prediction
from model.sampling.schedule import NoiseSchedule
from tests.waiting import until

PATIENCE = 20.0


class Watched:
    """Stands for an evaluator: answers with the request's own x, notes every batch, and waits while it is held.

    `broken`: a time t whose request cannot be answered.
    """

    def __init__(self) -> None:
        self.batches: list[list[float]] = []
        self.frames: list[int] = []
        self.broken: dict[float, Exception] = {}
        self.held = threading.Event()
        self.held.set()
        self.reached = threading.Semaphore(0)

    def __call__(self, requests: Sequence[Request]) -> list[Prediction]:
        self.batches.append([request.t for request in requests])
        self.frames.append(sum(len(request.x) for request in requests if isinstance(request, EvaluateFrames)))
        self.reached.release()
        assert self.held.wait(PATIENCE)
        for request in requests:
            if request.t in self.broken:
                raise self.broken[request.t]
        return [Prediction(request.x) for request in requests]

    def cost(self, requests: Sequence[Request]) -> float:
        return float(len(requests))

    def hold(self) -> None:
        """Stop in the next batch; returns when the engine is in it."""
        self.held.clear()
        while self.reached.acquire(blocking=False):
            pass
        assert self.reached.acquire(timeout=PATIENCE)


@pytest.fixture
def evaluator() -> Watched:
    return Watched()


@pytest.fixture
def make_engine() -> Iterator[Callable[..., Engine]]:
    engines: list[Engine] = []

    def make(*arguments: Any, **named: Any) -> Engine:
        engines.append(Engine(*arguments, **named))
        engines[-1].start()
        return engines[-1]

    yield make
    for engine in engines:
        engine.close(RuntimeError("the test is over"))
        engine.join()


def clip_program(name: int, steps: int) -> Program:
    """`steps` evaluations at times that name the program (the hundreds) and the step; returns what it was sent."""
    answers = []
    for step in range(steps):
        x = Latents(None, torch.full((1, 1, 2), 100.0 * name + step))
        answers.append(float((yield Evaluate(x, t=100.0 * name + step, s=0.0)).eps.audio[0, 0, 0]))
    return answers


def long_program(name: int, steps: int, windows: int, seen: list[int] | None = None) -> Program:
    """As clip_program, with `windows` evaluations at each of `steps` steps, all at once; `seen` notes every report of
    how many more are answered."""
    answers = []
    for step in range(steps):
        x = [Latents(None, torch.full((1, 1, 2), 100.0 * name + step + k / 100)) for k in range(windows)]
        requests = tuple(Evaluate(each, t=100.0 * name + step, s=0.0) for each in x)
        asked = EvaluateAll(requests) if seen is None else EvaluateAll(requests, seen.append)
        answers.append([round(float(answer.eps.audio[0, 0, 0]), 2) for answer in (yield asked)])
    return answers


def frames_program(name: int, steps: int, frames: int) -> Program:
    for step in range(steps):
        x = torch.zeros(frames, 3, 2, 2)
        yield EvaluateFrames(x, x, t=100.0 * name + step)


def names(batch: list[float]) -> list[int]:
    return sorted(int(t // 100) for t in batch)


def test_programs_share_batches_join_and_leave_at_steps_and_get_their_own_answers(
    make_engine: Callable[..., Engine], evaluator: Watched
) -> None:
    engine = make_engine(8)
    evaluator.held.clear()
    first = engine.submit(evaluator, clip_program(1, 4))  # type: ignore[arg-type]
    assert evaluator.reached.acquire(timeout=PATIENCE)
    others = [engine.submit(evaluator, clip_program(name, 2)) for name in (2, 3)]  # type: ignore[arg-type]
    evaluator.held.set()
    assert first.result(PATIENCE) == [100.0, 101.0, 102.0, 103.0]
    assert [run.result(PATIENCE) for run in others] == [[200.0, 201.0], [300.0, 301.0]]
    assert [names(batch) for batch in evaluator.batches] == [[1], [1, 2, 3], [1, 2, 3], [1]]


def test_a_run_that_is_told_to_leave_takes_no_further_step(
    make_engine: Callable[..., Engine], evaluator: Watched
) -> None:
    engine = make_engine(8)
    evaluator.held.clear()
    leaving, staying = (engine.submit(evaluator, clip_program(name, 50)) for name in (1, 2))  # type: ignore[arg-type]
    assert evaluator.reached.acquire(timeout=PATIENCE)
    leaving.leave(KeyError("enough"))
    assert isinstance(leaving.exception(0), KeyError)  # whoever waits knows at once, whatever the device does
    seen = len(evaluator.batches)
    evaluator.held.set()
    assert len(staying.result(PATIENCE)) == 50
    assert all(1 not in names(batch) for batch in evaluator.batches[seen:])


def test_a_program_that_raises_fails_alone(make_engine: Callable[..., Engine], evaluator: Watched) -> None:
    def raising() -> Program:
        yield Evaluate(Latents(None, torch.zeros(1, 1, 2)), t=900.0, s=0.0)
        raise ArithmeticError("of its own doing")

    engine = make_engine(8)
    bad, good = engine.submit(evaluator, raising()), engine.submit(evaluator, clip_program(1, 5))  # type: ignore[arg-type]
    assert isinstance(bad.exception(PATIENCE), ArithmeticError)
    assert len(good.result(PATIENCE)) == 5


def test_a_request_that_cannot_be_answered_fails_alone(make_engine: Callable[..., Engine], evaluator: Watched) -> None:
    evaluator.broken[201.0] = ValueError("no answer to this")
    engine = make_engine(8)
    evaluator.held.clear()
    runs = [engine.submit(evaluator, clip_program(name, 3)) for name in (1, 2, 3)]  # type: ignore[arg-type]
    evaluator.held.set()
    assert isinstance(runs[1].exception(PATIENCE), ValueError)
    assert [run.result(PATIENCE)[-1] for run in (runs[0], runs[2])] == [102.0, 302.0]


def test_no_more_runs_at_a_time_than_there_is_room_for_and_in_their_order(
    make_engine: Callable[..., Engine], evaluator: Watched
) -> None:
    engine = make_engine(2)
    evaluator.held.clear()
    began: list[int] = []
    runs = [
        engine.submit(evaluator, clip_program(name, 2), lambda name=name: began.append(name))  # type: ignore[arg-type,misc]
        for name in range(1, 6)
    ]
    evaluator.held.set()
    for run in runs:
        run.result(PATIENCE)
    assert began == [1, 2, 3, 4, 5]
    assert max(len(batch) for batch in evaluator.batches) == 2


def test_closing_ends_waiting_runs_at_once(make_engine: Callable[..., Engine], evaluator: Watched) -> None:
    engine = make_engine(1)
    runs = [engine.submit(evaluator, clip_program(name, 9)) for name in (1, 2)]  # type: ignore[arg-type]
    evaluator.hold()
    engine.close(InterruptedError("the worker stops"))
    assert all(isinstance(run.exception(0), InterruptedError) for run in runs)
    assert isinstance(engine.submit(evaluator, clip_program(3, 1)).exception(0), InterruptedError)  # type: ignore[arg-type]
    evaluator.held.set()
    engine.join()


def test_frames_of_several_clips_share_a_forward_up_to_the_budget_and_none_starves(
    make_engine: Callable[..., Engine], evaluator: Watched
) -> None:
    engine = make_engine(8, 32)
    evaluator.held.clear()
    clip = engine.submit(evaluator, clip_program(1, 6))  # type: ignore[arg-type]
    assert evaluator.reached.acquire(timeout=PATIENCE)
    runs = [engine.submit(evaluator, frames_program(name, 4, 16)) for name in (2, 3, 4)]  # type: ignore[arg-type]
    evaluator.held.set()
    for run in (clip, *runs):
        run.result(PATIENCE)
    assert max(evaluator.frames) == 32
    assert [1 in names(batch) for batch in evaluator.batches[:6]] == [True] * 6  # the base network waits for no one
    steps = Counter({2: 0, 3: 0, 4: 0})
    for batch in evaluator.batches:
        steps.update(name for name in names(batch) if name > 1)
        assert max(steps.values()) - min(steps.values()) <= 1  # turn by turn


def test_a_clip_larger_than_the_budget_is_served_all_the_same(
    make_engine: Callable[..., Engine], evaluator: Watched
) -> None:
    engine = make_engine(8, 8)
    engine.submit(evaluator, frames_program(1, 2, 16)).result(PATIENCE)  # type: ignore[arg-type]
    assert evaluator.frames == [16, 16]


def test_many_evaluations_at_once_take_several_ticks_and_are_answered_in_order(
    make_engine: Callable[..., Engine], evaluator: Watched
) -> None:
    seen: list[int] = []
    run = make_engine(4).submit(evaluator, long_program(1, 2, 10, seen))  # type: ignore[arg-type]
    assert run.result(PATIENCE) == [[100 + step + k / 100 for k in range(10)] for step in (0, 1)]
    assert [len(batch) for batch in evaluator.batches] == [4, 4, 2, 4, 4, 2]
    assert seen == [4, 4, 2, 4, 4, 2]


@pytest.mark.parametrize(("capacity", "steps"), [(1, 7), (2, 7), (4, 7), (16, 20)])
def test_a_short_clip_beside_a_long_one_waits_one_tick_and_takes_twice_its_own_time(
    make_engine: Callable[..., Engine], evaluator: Watched, capacity: int, steps: int
) -> None:
    """Counted in evaluations, each of which takes the same time here, as on a processor."""
    engine = make_engine(capacity)
    evaluator.held.clear()
    long = engine.submit(evaluator, long_program(1, 40, 38), long=True)  # type: ignore[arg-type]
    assert evaluator.reached.acquire(timeout=PATIENCE)
    before = len(evaluator.batches)
    short = engine.submit(evaluator, clip_program(2, steps))  # type: ignore[arg-type]
    evaluator.held.set()
    assert len(short.result(PATIENCE)) == steps
    long.leave(KeyError("enough"))
    mine = [batch for batch in evaluator.batches[before:] if 2 in names(batch)]
    last = evaluator.batches.index(mine[-1]) + 1
    assert evaluator.batches[before:last] == mine  # it is in every tick after the one it found going on
    assert len(mine) == steps
    assert sum(len(batch) for batch in mine) <= 2 * steps
    assert all(1 in names(batch) for batch in mine)  # and the long one goes on


def test_windows_fill_a_batch_that_costs_no_more_than_the_short_clips_alone(make_engine: Callable[..., Engine]) -> None:
    """A GPU takes 16 clips in little more than the time of one."""
    network = Cramped(room=16)
    evaluator = evaluator_with(network, (1, 16), {1: 1.0, 16: 1.5})
    engine = make_engine(16)
    runs = [engine.submit(evaluator, long_program(1, 4, 30)), engine.submit(evaluator, clip_program(2, 4))]
    for run in runs:
        run.result(PATIENCE)
    assert network.sizes.count(16) == len(network.sizes)
    assert engine.statistics.clips[16] >= 5
    assert runs[1].done()


def test_two_long_clips_share_the_ticks_equally(make_engine: Callable[..., Engine], evaluator: Watched) -> None:
    engine = make_engine(3)
    evaluator.held.clear()
    first, second = (engine.submit(evaluator, long_program(name, 6, 12)) for name in (1, 2))  # type: ignore[arg-type]
    evaluator.held.set()
    for run in (first, second):
        run.result(PATIENCE)
    counts = Counter({1: 0, 2: 0})
    for batch in evaluator.batches:
        counts.update(names(batch))
        assert abs(counts[1] - counts[2]) <= 3


def test_long_clips_leave_the_places_of_the_others_free(make_engine: Callable[..., Engine], evaluator: Watched) -> None:
    engine = make_engine(1)
    evaluator.held.clear()
    began: list[str] = []
    for name in ("first long", "second long"):
        engine.submit(evaluator, long_program(1, 50, 8), partial(began.append, name), long=True)  # type: ignore[arg-type]
    short = engine.submit(evaluator, clip_program(2, 3), partial(began.append, "short"))  # type: ignore[arg-type]
    evaluator.held.set()
    short.result(PATIENCE)
    assert sorted(began) == ["first long", "short"]


def test_a_held_run_is_left_alone_while_others_go_on(make_engine: Callable[..., Engine], evaluator: Watched) -> None:
    held = threading.Event()
    held.set()
    engine = make_engine(2)
    waiting = engine.submit(evaluator, clip_program(1, 3), held=held.is_set)  # type: ignore[arg-type]
    assert len(engine.submit(evaluator, clip_program(2, 5)).result(PATIENCE)) == 5  # type: ignore[arg-type]
    until(lambda: engine.busy_for == 0, "the engine waits")  # and does not count as hung
    assert all(1 not in names(batch) for batch in evaluator.batches)
    held.clear()
    assert len(waiting.result(PATIENCE)) == 3
    held.set()
    left = engine.submit(evaluator, clip_program(3, 3), held=held.is_set)  # type: ignore[arg-type]
    left.leave(KeyError("cancelled"))
    until(lambda: not engine._live, "a held run that has left is dropped")


def test_a_long_run_leaves_between_its_windows(make_engine: Callable[..., Engine], evaluator: Watched) -> None:
    engine = make_engine(2)
    evaluator.held.clear()
    leaving, staying = (
        engine.submit(evaluator, program)  # type: ignore[arg-type]
        for program in (long_program(1, 5, 40), clip_program(2, 20))
    )
    assert evaluator.reached.acquire(timeout=PATIENCE)
    leaving.leave(KeyError("cancelled"))
    seen = len(evaluator.batches)
    evaluator.held.set()
    assert len(staying.result(PATIENCE)) == 20
    assert all(1 not in names(batch) for batch in evaluator.batches[seen:])


def test_a_window_that_cannot_be_answered_fails_its_own_run_alone(
    make_engine: Callable[..., Engine], evaluator: Watched
) -> None:
    evaluator.broken[101.0] = ValueError("no answer to this")
    engine = make_engine(8)
    evaluator.held.clear()
    runs = [
        engine.submit(evaluator, program)  # type: ignore[arg-type]
        for program in (long_program(1, 3, 5), long_program(2, 3, 5), clip_program(3, 6))
    ]
    evaluator.held.set()
    assert isinstance(runs[0].exception(PATIENCE), ValueError)
    assert runs[1].result(PATIENCE)[-1] == [202 + k / 100 for k in range(5)]
    assert runs[2].result(PATIENCE)[-1] == 305.0


def test_busy_for_counts_from_the_tick_of_a_long_step_not_from_the_step(make_engine: Callable[..., Engine]) -> None:
    """A device hangs if a tick does not end; all windows of a long clip may well take longer than that."""

    class Gated(Watched):
        def __call__(self, requests: Sequence[Request]) -> list[Prediction]:
            self.reached.release()
            assert gate.acquire(timeout=PATIENCE)
            return [Prediction(request.x) for request in requests]

    gate, evaluator, engine = threading.Semaphore(0), Gated(), make_engine(1)
    began = time.monotonic()
    run = engine.submit(evaluator, long_program(1, 1, 2))  # type: ignore[arg-type]
    assert evaluator.reached.acquire(timeout=PATIENCE)
    until(lambda: engine.busy_for > 0.2, "the first tick takes its time")
    gate.release()
    assert evaluator.reached.acquire(timeout=PATIENCE)
    busy = engine.busy_for
    assert 0 < busy < time.monotonic() - began - 0.2
    gate.release()
    run.result(PATIENCE)


class Cramped(torch.nn.Module):
    """A network on a device with room for `room` clips: doubles the sound."""

    config = UNetConfig()

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.sizes: list[int] = []

    def forward(self, x: Pair, *_: object) -> Pair:
        self.sizes.append(len(x.audio))
        if len(x.audio) > self.room:
            raise torch.OutOfMemoryError("out of memory")
        return x.map(lambda value: 2 * value)


def evaluator_with(
    network: torch.nn.Module, sizes: tuple[int, ...], costs: dict[int, float] | None = None
) -> Evaluator:
    schedule = NoiseSchedule.from_config(ScheduleConfig())
    return Evaluator(network, None, schedule, batch_sizes=BatchSizes(sizes, costs))  # type: ignore[arg-type]


def test_out_of_memory_halves_the_batches_of_windows_too(make_engine: Callable[..., Engine]) -> None:
    network = Cramped(room=3)
    runs = [
        make_engine(8).submit(evaluator_with(network, (1, 2, 4, 8)), program)
        for program in (long_program(1, 2, 11), clip_program(2, 4))
    ]
    assert runs[0].result(PATIENCE) == [[round(2 * (100 + s + k / 100), 2) for k in range(11)] for s in (0, 1)]
    assert runs[1].result(PATIENCE)[-1] == 2 * 203.0


def test_out_of_memory_halves_the_batches_and_no_run_is_lost(make_engine: Callable[..., Engine]) -> None:
    network = Cramped(room=3)
    evaluator = evaluator_with(network, (1, 2, 4, 8))
    answers = evaluator([next(clip_program(name, 1)) for name in range(1, 8)])
    assert [float(answer.eps.audio[0, 0, 0]) for answer in answers] == [200.0 * name for name in range(1, 8)]
    assert network.sizes[-1] <= 2
    assert evaluator.batch_sizes is not None
    assert evaluator.batch_sizes.sizes == (1, 2)
    engine = make_engine(8)
    runs = [engine.submit(evaluator, clip_program(name, 3)) for name in range(1, 8)]
    assert [run.result(PATIENCE)[-1] for run in runs] == [2 * (100.0 * name + 2) for name in range(1, 8)]
    assert 4 not in network.sizes[-9:]


def test_a_single_clip_that_does_not_fit_raises_memory_error(make_engine: Callable[..., Engine]) -> None:
    run = make_engine(8).submit(evaluator_with(Cramped(room=0), (1, 2)), clip_program(1, 3))
    assert isinstance(run.exception(PATIENCE), MemoryError)


def test_a_lost_device_ends_everything_at_once(make_engine: Callable[..., Engine], evaluator: Watched) -> None:
    lost: list[BaseException] = []
    told = threading.Event()
    engine = make_engine(8, on_lost=lambda error: (lost.append(error), told.set()))
    evaluator.broken[101.0] = torch.AcceleratorError("an illegal memory access was encountered")
    runs = [engine.submit(evaluator, clip_program(name, 5)) for name in (1, 2)]  # type: ignore[arg-type]
    assert told.wait(PATIENCE)
    assert lost == [evaluator.broken[101.0]]
    assert all(run.exception(PATIENCE) is lost[0] for run in runs)


def test_busy_for_is_the_time_in_the_current_step(make_engine: Callable[..., Engine], evaluator: Watched) -> None:
    engine = make_engine(1)
    run = engine.submit(evaluator, clip_program(1, 2))  # type: ignore[arg-type]
    evaluator.hold()
    before = engine.busy_for
    until(lambda: engine.busy_for > before, "time goes on")
    evaluator.held.set()
    run.result(PATIENCE)
    until(lambda: engine.busy_for == 0, "the engine waits")


def test_a_device_that_is_lost_while_a_run_begins_ends_it_too(make_engine: Callable[..., Engine]) -> None:
    def lost() -> Program:
        raise torch.AcceleratorError("unspecified launch failure")
        yield

    told = threading.Event()
    engine = make_engine(8, on_lost=lambda _: told.set())
    run = engine.submit(evaluator_with(Cramped(1), (1,)), lost())
    assert told.wait(PATIENCE)
    assert isinstance(run.exception(PATIENCE), torch.AcceleratorError)


def test_an_error_keeps_nothing_of_the_forward_that_failed(make_engine: Callable[..., Engine]) -> None:
    """Frames hold tensors, and errors hold frames: that would be a batch for every job that failed."""

    class Failing(Cramped):
        def forward(self, x: Pair, *_: object) -> Pair:
            large = torch.zeros(1)
            kept.append(weakref.ref(large))
            raise ValueError("no")

    kept: list[weakref.ref[torch.Tensor]] = []
    engine = make_engine(8)
    runs = [engine.submit(evaluator_with(Failing(9), (1, 2)), clip_program(name, 2)) for name in (1, 2)]
    errors = [run.exception(PATIENCE) for run in runs]
    assert all("in forward" in "".join(getattr(error, "__notes__", [])) for error in errors)
    assert [reference() for reference in kept] == [None] * len(kept)


def test_an_action_runs_between_two_ticks_in_the_engines_thread(
    make_engine: Callable[..., Engine], evaluator: Watched
) -> None:
    """Also while the engine is idle; what it raises is its caller's, and the runs go on."""
    engine = make_engine(1)
    assert engine.between_ticks(lambda: threading.current_thread().name) == "engine"
    evaluator.held.clear()
    run = engine.submit(evaluator, clip_program(1, 3))  # type: ignore[arg-type]
    assert evaluator.reached.acquire(timeout=PATIENCE)
    outcome: list[int] = []
    waiting = threading.Thread(target=lambda: outcome.append(engine.between_ticks(lambda: len(evaluator.batches))))
    waiting.start()
    until(lambda: engine._actions, "it waits for the end of the tick")
    evaluator.held.set()
    waiting.join(PATIENCE)
    assert outcome == [1], "after the tick that was under way, before the next"

    def fail() -> None:
        raise LookupError("of the action")

    with pytest.raises(LookupError):
        engine.between_ticks(fail)
    assert len(run.result(PATIENCE)) == 3


def test_an_action_that_the_engine_does_not_reach_ends_with_its_reason(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(1)
    engine.close(InterruptedError("the worker stops"))
    with pytest.raises(InterruptedError):
        engine.between_ticks(lambda: None)
