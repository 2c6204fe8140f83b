"""The engine: runs many sampler generators at once and batches their evaluations.

Each tick takes the pending requests of all runs, whatever their step, mode or sampler, evaluates them together with
their model's evaluator, and sends the answers back. New runs join and finished or cancelled ones are removed at the
next tick. The engine's own thread owns the device.

Super-resolution requests whole clips of frames: a tick takes as many as the frame budget holds, longest waiting first,
so a step of the base network never waits for more than one budget of frames.

A run may request many evaluations at once, such as the windows of a long clip. A tick answers at least one of each run,
and more of these up to `capacity` in all, but only as many as make the tick at most SLOWDOWN times as long as it is for
the runs that request a single one. A step of a short clip thus never waits for all windows of a long one.
"""

from __future__ import annotations

import math
import threading
import time
import traceback
from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch

from model.runtime.evaluator import Evaluator, Program, Request, is_out_of_memory
from model.runtime.threads import compute_with
from model.sampling.samplers import EvaluateAll, EvaluateFrames, Prediction

HELD_INTERVAL = 0.02
"""Seconds between two looks at held runs, if nothing else is to be done."""

SLOWDOWN = 2.0
"""How much longer the windows of long clips may make a tick for the other runs."""


_T = TypeVar("_T")


class EngineRun(Future[Any]):
    """A program in the engine, and a future of its result or exception. `long` and `held`: see `Engine.submit`."""

    def __init__(
        self, evaluator: Evaluator, program: Program, on_start: Callable[[], None], long: bool, held: Callable[[], bool]
    ) -> None:
        super().__init__()
        self.evaluator = evaluator
        self.on_start = on_start
        self.long = long
        self.held = held
        self._program = program
        self._asked: Request | EvaluateAll | None = None
        self._answers: list[Prediction] = []

    def leave(self, reason: BaseException) -> None:
        """End the run with `reason` now, without another step. Does nothing if it has ended."""
        with suppress(InvalidStateError):
            self.set_exception(reason)

    def cancel(self) -> bool:
        """Disabled: use `leave(reason)`."""
        return False

    @property
    def requests(self) -> Sequence[Request]:
        """What it waits for, in order; empty if it has ended."""
        if self._asked is None or self.done():
            return ()
        return self._asked.requests[len(self._answers) :] if isinstance(self._asked, EvaluateAll) else (self._asked,)

    @property
    def asks(self) -> bool:
        """Whether it waits for predictions, and takes them."""
        return bool(self.requests) and not self.held()

    @property
    def frames(self) -> int:
        """Frames of super-resolution that it waits for."""
        return self._asked.x.shape[0] if isinstance(self._asked, EvaluateFrames) else 0

    def begin(self) -> None:
        """Run the program until its first request or its end. Raises what the program raises."""
        self._resume(None)

    def answer(self, predictions: Sequence[Prediction]) -> None:
        """Answer the first of `requests`. Once all are answered, the program is resumed until its next request or its
        end. Raises what the program raises."""
        if not isinstance(self._asked, EvaluateAll):
            self._resume(predictions[0])
            return
        asked = self._asked
        self._answers += predictions
        asked.on_batch(len(predictions))
        if len(self._answers) == len(asked.requests):
            answers, self._answers = self._answers, []
            self._resume(answers)

    def _resume(self, answer: Prediction | list[Prediction] | None) -> None:
        self._asked = None
        try:
            self._asked = self._program.send(answer)
        except StopIteration as stop:
            with suppress(InvalidStateError):  # it has left meanwhile
                self.set_result(stop.value)

    def drop(self) -> None:
        """Release what the program holds."""
        self._asked, self._answers = None, []
        self._program.close()


class Durations:
    """A histogram of seconds by upper bound; infinity above the last of BOUNDS."""

    BOUNDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)

    def __init__(self) -> None:
        self.total = 0.0
        self.counts: Counter[float] = Counter()

    def add(self, seconds: float) -> None:
        self.total += seconds
        place = bisect_left(self.BOUNDS, seconds)
        self.counts[self.BOUNDS[place] if place < len(self.BOUNDS) else math.inf] += 1


@dataclass
class Statistics:
    """Totals since the start: `working` is the seconds spent in ticks; `clips` and `frames` count ticks by the number
    of clips and frames evaluated in them; `steps` has the durations of ticks by the networks that ran."""

    ticks: int = 0
    working: float = 0.0
    clips: Counter[int] = field(default_factory=Counter)
    frames: Counter[int] = field(default_factory=Counter)
    steps: dict[str, Durations] = field(default_factory=lambda: {name: Durations() for name in ("base", "sr", "both")})


class Engine:
    """Runs up to `capacity` programs concurrently, and as many long ones beside them, and queues the rest;
    `frame_budget` bounds the frames of a tick.

    `on_lost` is called in the engine's thread if the device fails for good (a driver error after which every call
    fails) or the engine itself fails; it must end the process. `device`: where the evaluators compute, if it is one of
    several GPUs.
    """

    def __init__(
        self,
        capacity: int,
        frame_budget: int = 16,
        on_lost: Callable[[BaseException], None] | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.capacity = capacity
        self.frame_budget = frame_budget
        self.statistics = Statistics()
        self._on_lost = on_lost
        self._device = device
        self._busy_since: float | None = None
        self._waiting: deque[EngineRun] = deque()
        self._live: list[EngineRun] = []
        self._changed = threading.Condition()
        self._closed: BaseException | None = None
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self._threads = torch.get_num_threads()
        self._news: list[Callable[[], object]] = []
        self._actions: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._events: deque[torch.cuda.Event] = deque()

    def start(self) -> None:
        self._thread.start()

    def submit(
        self,
        evaluator: Evaluator,
        program: Program,
        on_start: Callable[[], None] = lambda: None,
        long: bool = False,
        held: Callable[[], bool] = lambda: False,
    ) -> EngineRun:
        """Run `program` on the networks of `evaluator`. `on_start` is called when the engine starts it.

        Both run in the engine's thread: anything slow in them keeps the device waiting. `long`: the program requests
        many evaluations at once; long runs have places of their own, so that others need not wait for their end.
        `held`: asked before every tick, whether the run is left alone for now, because its parts are not taken as fast
        as they are made.
        """
        run = EngineRun(evaluator, program, on_start, long, held)
        with self._changed:
            if self._closed is not None:
                run.leave(self._closed)
            else:
                self._waiting.append(run)
                self._changed.notify()
        return run

    def between_ticks(self, action: Callable[[], _T]) -> _T:
        """Perform `action` in the engine's thread, between two ticks, and return its result: no network runs meanwhile.

        Raises what `action` raises, out of memory as MemoryError, and the reason of `close` if the engine ends first.
        """
        if threading.current_thread() is self._thread:
            return action()
        outcome: Future[_T] = Future()
        with self._changed:
            if self._closed is not None:
                raise self._closed
            self._actions.append((action, outcome))
            self._changed.notify()
        return outcome.result()

    @property
    def busy_for(self) -> float:
        """Seconds since the current step began; 0 while the engine is idle."""
        since = self._busy_since
        return time.monotonic() - since if since is not None else 0.0

    def soon(self, callback: Callable[[], object]) -> None:
        """Notify other threads: `callback` is called when the device is about to be busy.

        Called at once, it would wake threads that compete with the engine for the interpreter while it prepares the
        next forward. From any thread but the engine's it is called at once.
        """
        if threading.current_thread() is self._thread:
            self._news.append(callback)
        else:
            callback()

    def close(self, reason: BaseException) -> None:
        """End every present and future run with `reason`. The thread ends after its current tick."""
        with self._changed:
            self._closed = reason
            for run in (*self._live, *self._waiting):
                run.leave(reason)
            while self._actions:
                self._actions.popleft()[1].set_exception(reason)
            self._changed.notify()

    def join(self) -> None:
        """After `close`: wait for the thread to end."""
        if self._thread.is_alive():
            self._thread.join()

    def _loop(self) -> None:
        compute_with(self._threads)  # others here use fewer
        try:
            if self._device is not None and self._device.type == "cuda":
                torch.cuda.set_device(self._device)
            while self._closed is None:
                self._busy_since = time.monotonic()
                self._join_and_drop()
                self._act()
                asking = [run for run in self._live if run.asks]
                self._tell()
                if asking:
                    self._tick(asking)
                else:
                    self._busy_since = None
                    with self._changed:
                        self._changed.wait_for(self._has_work, HELD_INTERVAL if self._live else None)
        except BaseException as error:
            self.close(error)
            if self._on_lost is None:
                raise
            self._on_lost(error)
        finally:
            self._busy_since = None
            for run in self._live:
                assert self._closed is not None
                run.leave(self._closed)  # a run that was joining while the engine closed
                run.drop()
            self._tell()

    def _act(self) -> None:
        """Perform the first of the actions that wait for the end of a tick."""
        with self._changed:
            if not self._actions:
                return
            action, outcome = self._actions.popleft()
        try:
            outcome.set_result(action())
        except BaseException as error:
            outcome.set_exception(_plain(error) if isinstance(error, Exception) else error)
            if not isinstance(error, Exception) or is_device_lost(error):
                raise

    def _tell(self) -> None:
        news, self._news = self._news, []
        for callback in news:
            callback()

    def _join_and_drop(self) -> None:
        """Remove the runs that have ended and start waiting ones up to the capacity."""
        for run in [run for run in self._live if run.done()]:
            self._live.remove(run)
            run.drop()
        while True:
            with self._changed:
                following = self._following()
                if following is None:
                    break
                self._waiting.remove(following)
            if not following.done():
                self._live.append(following)
                self._begin(following)

    def _following(self) -> EngineRun | None:
        """The longest waiting run that there is a place for."""
        free = {long: sum(run.long == long for run in self._live) < self.capacity for long in (False, True)}
        return next((run for run in self._waiting if free[run.long]), None)

    def _has_work(self) -> bool:
        return (
            self._closed is not None
            or bool(self._actions)
            or self._following() is not None
            or any(run.done() or run.asks for run in self._live)
        )

    def _begin(self, run: EngineRun) -> None:
        try:
            run.on_start()
        except Exception as error:
            run.leave(error)
        else:
            self._advance(run, run.begin)

    def _tick(self, asking: Sequence[EngineRun]) -> None:
        began = time.perf_counter()
        shares = self._choose(asking)
        frames = sum(run.frames > 0 for run in shares)
        for evaluator in {id(run.evaluator): run.evaluator for run in shares}.values():
            self._serve(evaluator, {run: share for run, share in shares.items() if run.evaluator is evaluator})
        self._settle()
        # The next tick begins with the runs that this one served least, or not at all.
        self._live = sorted(self._live, key=lambda run: shares.get(run, 0))
        seconds = time.perf_counter() - began
        self.statistics.ticks += 1
        self.statistics.working += seconds
        self.statistics.steps["base" if not frames else "sr" if frames == len(shares) else "both"].add(seconds)

    def _choose(self, runs: Sequence[EngineRun]) -> dict[EngineRun, int]:
        """How many requests of which runs this tick answers: all that wait for the base network, with at least one
        each, and super-resolution runs up to the frame budget."""
        shares, frames = {}, 0
        for run in runs:
            if run.frames:
                if frames and frames + run.frames > self.frame_budget:
                    continue
                frames += run.frames
            shares[run] = 1
        self._add_windows(shares)
        return shares

    def _add_windows(self, shares: dict[EngineRun, int]) -> None:
        """Raise the shares of runs that request many evaluations, in turns, within the limits of the module's
        docstring."""
        base = [run for run in shares if not run.frames]
        many = deque(run for run in base if len(run.requests) > 1)
        single = {run: 1 for run in base if len(run.requests) == 1}
        limit = max(SLOWDOWN * _cost(single), _cost(dict.fromkeys(base, 1))) if single and many else math.inf
        total = len(base)
        while many and total < self.capacity:
            run = many.popleft()
            shares[run] += 1
            if limit < math.inf and _cost({each: shares[each] for each in base}) > limit:
                shares[run] -= 1
                break
            total += 1
            if shares[run] < len(run.requests):
                many.append(run)

    def _serve(self, evaluator: Evaluator, shares: Mapping[EngineRun, int]) -> None:
        """Answer so many requests of each run. If their batch fails, each run is tried alone, so only the faulty one
        fails."""
        waiting = {run: run.requests[:share] for run, share in shares.items()}
        requests = [request for own in waiting.values() for request in own]
        if not requests:
            return
        self._count(requests)
        failure = None
        try:
            predictions = evaluator(requests)
        except Exception as error:
            if is_device_lost(error):
                raise
            failure = _plain(error)
        if failure is not None:  # outside the except block, the failed forward's memory is free
            if len(waiting) == 1:
                next(iter(waiting)).leave(failure)
            else:
                for run, share in shares.items():
                    self._serve(evaluator, {run: share})
            return
        done = 0
        for run, own in waiting.items():
            self._advance(run, partial(run.answer, predictions[done : done + len(own)]))
            done += len(own)

    def _advance(self, run: EngineRun, resume: Callable[[], None]) -> None:
        try:
            if not run.done():
                resume()
        except Exception as error:
            if is_device_lost(error):
                raise
            run.leave(_plain(error))

    def _count(self, requests: Sequence[Request]) -> None:
        clips = sum(not isinstance(request, EvaluateFrames) for request in requests)
        frames = sum(request.x.shape[0] for request in requests if isinstance(request, EvaluateFrames))
        if clips:
            self.statistics.clips[clips] += 1
        if frames:
            self.statistics.frames[frames] += 1

    def _settle(self) -> None:
        """On a GPU forwards are queued: wait for those of the previous tick. The queue stays short and step times are
        correct, and the device still never waits for Python."""
        if not torch.cuda.is_initialized():
            return
        event = torch.cuda.Event()
        event.record()
        self._events.append(event)
        if len(self._events) > 1:
            self._events.popleft().synchronize()


def _cost(shares: Mapping[EngineRun, int]) -> float:
    """Relative cost of answering so many requests of each run."""
    requests: dict[Evaluator, list[Request]] = defaultdict(list)
    for run, share in shares.items():
        requests[run.evaluator] += run.requests[:share]
    return sum(evaluator.cost(own) for evaluator, own in requests.items())


def is_device_lost(error: BaseException) -> bool:
    """Whether the driver failed, so that every later call in this process fails too. Out of memory does not count."""
    return isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error)


def _plain(error: Exception) -> Exception:
    """The error for the run's future: out of memory is always MemoryError, and the traceback becomes a note. A real
    traceback would keep the tensors of all runs of the tick alive as long as the error."""
    where = "".join(traceback.format_tb(error.__traceback__))
    plain = MemoryError(str(error)) if is_out_of_memory(error) else error.with_traceback(None)
    plain.__context__ = plain.__cause__ = None
    plain.add_note(f"In the engine:\n{where}")
    return plain
