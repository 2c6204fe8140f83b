"""The engine: runs many sampler generators at once, one batched forward for what all of them ask at a time.

Each tick takes the pending requests of all runs, whatever their step, mode or sampler, has the evaluator of their model
answer them together, and sends the answers back. New runs join at the next tick; those that have ended, or were told to
leave, are gone at the next. One thread, the engine's own, owns the device.

Super-resolution asks for whole clips of frames: a tick takes as many as the frame budget holds, those first that have
waited longest, so that a step of the base network never waits for more than one such budget.
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
"""What a run executes: yields what it wants evaluated, is sent the predictions, returns its result."""


class Run(Future[Any]):
    """A program in the engine; as a future it has the program's result, or what was raised."""

    def __init__(self, evaluator: Evaluator, program: Program, on_start: Callable[[], None]) -> None:
        super().__init__()
        self.evaluator = evaluator
        self.on_start = on_start
        self.request: Request | None = None
        self._program = program

    def leave(self, reason: BaseException) -> None:
        """End the run with `reason` now; the engine takes no further step of it. Nothing happens if it has ended."""
        with suppress(InvalidStateError):
            self.set_exception(reason)

    def cancel(self) -> bool:
        """A future's own way to end would give no reason: `leave` does."""
        return False

    @property
    def asks(self) -> bool:
        """Whether it waits for an answer."""
        return self.request is not None and not self.done()

    def step(self, prediction: Prediction | None) -> None:
        """Let the program go on to its next request or its end. Raises what the program raises."""
        self.request = None
        try:
            self.request = next(self._program) if prediction is None else self._program.send(prediction)
        except StopIteration as stop:
            with suppress(InvalidStateError):  # told to leave meanwhile
                self.set_result(stop.value)

    def drop(self) -> None:
        """Give up what the program holds."""
        self.request = None
        self._program.close()


class Durations:
    """Times in seconds, counted by the least of BOUNDS that each does not exceed; infinity above the last."""

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
    """What the engine did since it was made: `working` seconds in ticks; `clips` and `frames` count by how many of
    them went through the two networks in one tick; `steps` has the times of ticks by the networks that ran in them."""

    ticks: int = 0
    working: float = 0.0
    clips: Counter[int] = field(default_factory=Counter)
    frames: Counter[int] = field(default_factory=Counter)
    steps: dict[str, Durations] = field(default_factory=lambda: {name: Durations() for name in ("base", "sr", "both")})


class Engine:
    """Runs up to `capacity` programs side by side, others wait their turn; `frame_budget` bounds the frames of a tick.

    `on_lost` is called in the engine's thread if the device fails for good (an error of the driver, after which every
    call fails) or the engine itself does; it is to end the process. `device`: where the evaluators compute, if it is
    one of several GPUs.
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
        self._waiting: deque[Run] = deque()
        self._live: list[Run] = []
        self._changed = threading.Condition()
        self._closed: BaseException | None = None
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self._threads = torch.get_num_threads()
        self._news: list[Callable[[], object]] = []
        self._events: deque[torch.cuda.Event] = deque()

    def start(self) -> None:
        self._thread.start()

    def submit(self, evaluator: Evaluator, program: Program, on_start: Callable[[], None] = lambda: None) -> Run:
        """Have `program` run on the networks of `evaluator`. `on_start` is called when the engine begins with it.

        Both are called in the engine's thread, where whatever takes time keeps the device waiting.
        """
        run = Run(evaluator, program, on_start)
        with self._changed:
            if self._closed is not None:
                run.leave(self._closed)
            else:
                self._waiting.append(run)
                self._changed.notify()
        return run

    @property
    def busy_for(self) -> float:
        """Seconds since the step began that the engine is in; 0 while it waits for something to do."""
        since = self._busy_since
        return time.monotonic() - since if since is not None else 0.0

    def soon(self, callback: Callable[[], object]) -> None:
        """For what a program has to tell other threads: call it when the device is about to be busy.

        Told at once, they would wake up and keep Python from the engine while it prepares the next forward. From any
        other thread than the engine's it is called now.
        """
        if threading.current_thread() is self._thread:
            self._news.append(callback)
        else:
            callback()

    def close(self, reason: BaseException) -> None:
        """End every run with `reason`, now and those to come. The thread ends after the tick that it is in."""
        with self._changed:
            self._closed = reason
            for run in (*self._live, *self._waiting):
                run.leave(reason)
            self._changed.notify()

    def join(self) -> None:
        """After `close`: wait until the thread has ended."""
        if self._thread.is_alive():
            self._thread.join()

    def _loop(self) -> None:
        torch.set_num_threads(self._threads)  # each thread has its own number, and others here may ask for less
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
                run.leave(self._closed)  # one that was just joining when the engine was closed
                run.drop()
            self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, []
        for callback in news:
            callback()

    def _join_and_drop(self) -> None:
        """Let go of the runs that have ended or were told to leave, and begin with those whose turn it is."""
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

    def _begin(self, run: Run) -> None:
        try:
            run.on_start()
        except Exception as error:
            run.leave(error)
        else:
            self._advance(run, None)

    def _tick(self, asking: Sequence[Run]) -> None:
        began = time.perf_counter()
        chosen = self._choose(asking)
        frames = sum(isinstance(run.request, EvaluateFrames) for run in chosen)
        for evaluator in {id(run.evaluator): run.evaluator for run in chosen}.values():
            self._serve(evaluator, [run for run in chosen if run.evaluator is evaluator])
        self._settle()
        # Those whose frames had no room are first in line at the next tick.
        self._live = sorted(self._live, key=lambda run: run in chosen)
        seconds = time.perf_counter() - began
        self.statistics.ticks += 1
        self.statistics.working += seconds
        self.statistics.steps["base" if not frames else "sr" if frames == len(chosen) else "both"].add(seconds)

    def _choose(self, runs: Sequence[Run]) -> list[Run]:
        """All that wait for the base network; of those that wait for super-resolution what the budget holds."""
        chosen, frames = [], 0
        for run in runs:
            if isinstance(run.request, EvaluateFrames):
                size = run.request.x.shape[0]
                if frames and frames + size > self.frame_budget:
                    continue
                frames += size
            chosen.append(run)
        return chosen

    def _serve(self, evaluator: Evaluator, runs: Sequence[Run]) -> None:
        """Answer these runs. If their batch fails each is tried alone, so that only the one to blame does."""
        requests = [run.request for run in runs if run.request is not None]
        self._count(requests)
        failure = None
        try:
            predictions = evaluator(requests)
        except Exception as error:
            if is_device_lost(error):
                raise
            failure = _plain(error)
        if failure is not None:  # what the failed forward held is free by now
            if len(runs) == 1:
                runs[0].leave(failure)
            else:
                for run in runs:
                    self._serve(evaluator, [run])
            return
        for run, prediction in zip(runs, predictions, strict=True):
            self._advance(run, prediction)

    def _advance(self, run: Run, prediction: Prediction | None) -> None:
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
        """On a GPU, forwards only line up: wait for those of the tick before, so that the line stays short, step times
        are true, and the device still never waits for Python."""
        if not torch.cuda.is_initialized():
            return
        event = torch.cuda.Event()
        event.record()
        self._events.append(event)
        if len(self._events) > 1:
            self._events.popleft().synchronize()


def is_device_lost(error: BaseException) -> bool:
    """Whether the device's driver failed, so that in this process all that follows on it fails too; not for want of
    memory."""
    return isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error)


def _plain(error: Exception) -> Exception:
    """An error for whoever waits for the run: a lack of memory under one name, whatever the device calls it, and where
    it came from in words. Frames would keep the tensors in them, of all runs of the tick, as long as the error is kept.
    """
    where = "".join(traceback.format_tb(error.__traceback__))
    plain = MemoryError(str(error)) if is_out_of_memory(error) else error.with_traceback(None)
    plain.__context__ = plain.__cause__ = None
    plain.add_note(f"In the engine:\n{where}")
    return plain
