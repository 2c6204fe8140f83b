"""The engine: runs many sampler generators at once and batches their evaluations.

Each tick takes the pending requests of all runs, whatever their step, mode or sampler, evaluates them together with
their model's evaluator, and sends the answers back. New runs join and finished or cancelled ones are removed at the
next tick. The engine's own thread owns the device.

Super-resolution requests whole clips of frames: a tick takes as many as the frame budget holds, longest waiting first,
so a step of the base network never waits for more than one budget of frames.
"""

from __future__ import annotations

import math
import threading
import time
import traceback
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch

from model.runtime.evaluator import Evaluator, Request, is_out_of_memory
from model.sampling.samplers import EvaluateFrames, Prediction

Program = Generator[Request, Prediction, Any]
"""The code of a run: yields requests, receives predictions, returns its result."""


class EngineRun(Future[Any]):
    """A program in the engine, and a future of its result or exception."""

    def __init__(self, evaluator: Evaluator, program: Program, on_start: Callable[[], None]) -> None:
        super().__init__()
        self.evaluator = evaluator
        self.on_start = on_start
        self.request: Request | None = None
        self._program = program

    def leave(self, reason: BaseException) -> None:
        """End the run with `reason` now, without another step. Does nothing if it has ended."""
        with suppress(InvalidStateError):
            self.set_exception(reason)

    def cancel(self) -> bool:
        """Disabled: use `leave(reason)`."""
        return False

    @property
    def asks(self) -> bool:
        """Whether it waits for a prediction."""
        return self.request is not None and not self.done()

    def step(self, prediction: Prediction | None) -> None:
        """Resume the program until its next request or its end. Raises what the program raises."""
        self.request = None
        try:
            self.request = next(self._program) if prediction is None else self._program.send(prediction)
        except StopIteration as stop:
            with suppress(InvalidStateError):  # it has left meanwhile
                self.set_result(stop.value)

    def drop(self) -> None:
        """Release what the program holds."""
        self.request = None
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
    """Runs up to `capacity` programs concurrently and queues the rest; `frame_budget` bounds the frames of a tick.

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
        self._events: deque[torch.cuda.Event] = deque()

    def start(self) -> None:
        self._thread.start()

    def submit(self, evaluator: Evaluator, program: Program, on_start: Callable[[], None] = lambda: None) -> EngineRun:
        """Run `program` on the networks of `evaluator`. `on_start` is called when the engine starts it.

        Both run in the engine's thread: anything slow in them keeps the device waiting.
        """
        run = EngineRun(evaluator, program, on_start)
        with self._changed:
            if self._closed is not None:
                run.leave(self._closed)
            else:
                self._waiting.append(run)
                self._changed.notify()
        return run

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
            self._changed.notify()

    def join(self) -> None:
        """After `close`: wait for the thread to end."""
        if self._thread.is_alive():
            self._thread.join()

    def _loop(self) -> None:
        torch.set_num_threads(self._threads)  # the number is per thread, and others here may use fewer
        try:
            if self._device is not None and self._device.type == "cuda":
                torch.cuda.set_device(self._device)
            while self._closed is None:
                self._busy_since = time.monotonic()
                self._join_and_drop()
                asking = [run for run in self._live if run.asks]
                self._tell()
                if asking:
                    self._tick(asking)
                else:
                    self._busy_since = None
                    with self._changed:
                        self._changed.wait_for(lambda: self._waiting or self._live or self._closed)
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

    def _tell(self) -> None:
        news, self._news = self._news, []
        for callback in news:
            callback()

    def _join_and_drop(self) -> None:
        """Remove the runs that have ended and start waiting ones up to the capacity."""
        for run in [run for run in self._live if run.done()]:
            self._live.remove(run)
            run.drop()
        while len(self._live) < self.capacity:
            with self._changed:
                if not self._waiting:
                    break
                run = self._waiting.popleft()
            if run.done():
                continue
            self._live.append(run)
            self._begin(run)

    def _begin(self, run: EngineRun) -> None:
        try:
            run.on_start()
        except Exception as error:
            run.leave(error)
        else:
            self._advance(run, None)

    def _tick(self, asking: Sequence[EngineRun]) -> None:
        began = time.perf_counter()
        chosen = self._choose(asking)
        frames = sum(isinstance(run.request, EvaluateFrames) for run in chosen)
        for evaluator in {id(run.evaluator): run.evaluator for run in chosen}.values():
            self._serve(evaluator, [run for run in chosen if run.evaluator is evaluator])
        self._settle()
        # Runs whose frames exceeded the budget come first at the next tick.
        self._live = sorted(self._live, key=lambda run: run in chosen)
        seconds = time.perf_counter() - began
        self.statistics.ticks += 1
        self.statistics.working += seconds
        self.statistics.steps["base" if not frames else "sr" if frames == len(chosen) else "both"].add(seconds)

    def _choose(self, runs: Sequence[EngineRun]) -> list[EngineRun]:
        """All runs that wait for the base network, and super-resolution runs up to the frame budget."""
        chosen, frames = [], 0
        for run in runs:
            if isinstance(run.request, EvaluateFrames):
                size = run.request.x.shape[0]
                if frames and frames + size > self.frame_budget:
                    continue
                frames += size
            chosen.append(run)
        return chosen

    def _serve(self, evaluator: Evaluator, runs: Sequence[EngineRun]) -> None:
        """Answer these runs. If their batch fails, each is tried alone, so only the faulty one fails."""
        requests = [run.request for run in runs if run.request is not None]
        self._count(requests)
        failure = None
        try:
            predictions = evaluator(requests)
        except Exception as error:
            if is_device_lost(error):
                raise
            failure = _plain(error)
        if failure is not None:  # outside the except block, the failed forward's memory is free
            if len(runs) == 1:
                runs[0].leave(failure)
            else:
                for run in runs:
                    self._serve(evaluator, [run])
            return
        for run, prediction in zip(runs, predictions, strict=True):
            self._advance(run, prediction)

    def _advance(self, run: EngineRun, prediction: Prediction | None) -> None:
        try:
            if not run.done():
                run.step(prediction)
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
