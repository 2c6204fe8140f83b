"""Progress of one output: steps done, share of the work, seconds left, and a preview."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from model.sampling import guidance
from model.sampling.samplers import Evaluate, Prediction, Sampler


@dataclass(frozen=True)
class StepProgress:
    """After each step: `step` of `total_steps` in `stage` ("base" or "sr"), the fraction of the clip's work done, and
    the seconds left, None until this model's step times are known. `preview` computes a preview of the clip and may be
    called in any thread.

    A clip of several windows also reports between steps, as its windows are evaluated: `step` is then the latest that
    is done, and so is the preview.
    """

    stage: str
    step: int
    total_steps: int
    fraction: float
    eta_seconds: float | None
    preview: Callable[[], ClipPreview] = field(compare=False)


@dataclass(frozen=True)
class ClipPreview:
    """x̂_0 at some step: `frames` uint8 (frames, height, width, 3) at the base stage's size, `audio` (samples,) in
    [-1, 1]; each None if it is not generated, or not at this stage. Of a clip of more than MAX_PREVIEW_FRAMES frames,
    frames and samples are evenly taken from the whole."""

    frames: Tensor | None
    audio: Tensor | None


MAX_PREVIEW_FRAMES = 64


@dataclass(frozen=True)
class Stage:
    """`steps` of a stage, with so many `windows` in each, which are evaluated in so many `rounds`. `forwards` are those
    of a window in each step; empty is one in every step."""

    steps: int
    windows: int = 1
    rounds: int = 1
    forwards: tuple[int, ...] = ()

    def work(self, step: int) -> int:
        """Forwards of all windows in a step, counted from 0."""
        return self.windows * (self.forwards[step] if self.forwards else 1)

    def work_left(self, steps: float) -> float:
        """Forwards in the last `steps`, of the first of which a part may be done."""
        whole = math.floor(steps)
        left = sum(self.work(step) for step in range(self.steps - whole, self.steps))
        return left + (steps - whole) * self.work(self.steps - whole - 1) if steps > whole else left


class Reporter:
    """Turns finished steps into StepProgress. The seconds of a step, for each of its windows, start from those of
    earlier clips, `window_seconds`, and soon follow this clip's own, which depend on what else the device computes.
    `starts`: first frames of the windows of the latest evaluation."""

    def __init__(
        self,
        stages: Mapping[str, Stage],
        window_seconds: dict[str, float],
        notify: Callable[[StepProgress], None],
    ) -> None:
        self._stages = dict(stages)
        self._left = {name: float(stage.steps) for name, stage in stages.items()}
        self._window_seconds = window_seconds
        self._expected = dict(window_seconds)
        self._share = 0.0
        self._notify = notify
        self._shown: StepProgress | None = None
        self._start: Callable[[], ClipPreview] = lambda: ClipPreview(None, None)
        self._began = 0.0
        self.timings = dict.fromkeys(stages, 0.0)
        self.starts: tuple[int, ...] = (0,)

    def follow(
        self,
        sampler: Sampler,
        stage: str,
        preview: Callable[[Evaluate, Prediction | None], Callable[[], ClipPreview]],
    ) -> Sampler:
        """Count the steps of `sampler`, however many evaluations guidance makes of one. `preview` gives the preview of
        a request and its prediction, or of the request before its prediction is known."""

        def answer(request: Evaluate) -> guidance.Answer:
            self._began = time.perf_counter()
            if self._shown is None:
                self._start = preview(request, None)
            prediction = yield request
            self._start = lambda: ClipPreview(None, None)
            self._step(stage, time.perf_counter() - self._began, preview(request, prediction))
            return prediction

        return guidance.respond(sampler, answer)

    def windows(self, evaluations: int, starts: Sequence[int]) -> None:
        """In a step of the base network: so many evaluations are made of its windows, which begin at `starts`."""
        stage = self._stages["base"]
        self.starts = tuple(starts)
        done = evaluations / (len(starts) * stage.rounds)
        if done >= 1:
            return
        left = self._left["base"]
        seconds = (time.perf_counter() - self._began) / (done * stage.work(stage.steps - round(left)))
        self._expected.setdefault("base", seconds)
        self._left["base"] = left - done
        shown = self._shown or StepProgress("base", 0, stage.steps, 0.0, None, self._start)
        self._share = max(self._share, self._fraction())
        self._notify(replace(shown, fraction=self._share, eta_seconds=self._eta()))
        self._left["base"] = left

    def _step(self, name: str, seconds: float, preview: Callable[[], ClipPreview]) -> None:
        stage = self._stages[name]
        each = seconds / stage.work(stage.steps - round(self._left[name]))
        for known, weight in ((self._window_seconds, 0.2), (self._expected, 0.4)):
            known[name] = (1 - weight) * known.get(name, each) + weight * each
        self.timings[name] += seconds
        self._left[name] -= 1
        done = stage.steps - round(self._left[name])
        self._share = max(self._share, self._fraction())  # never decreases, even if a stage turns out slow
        self._shown = StepProgress(name, done, stage.steps, self._share, self._eta(), preview)
        self._notify(self._shown)

    def _fraction(self) -> float:
        """Stages are weighted by their step times, where known."""
        typical = sum(self._expected.values()) / len(self._expected)
        cost = {name: self._expected.get(name, typical) for name in self._stages}
        total = sum(cost[name] * stage.work_left(stage.steps) for name, stage in self._stages.items())
        left = sum(cost[name] * self._stages[name].work_left(left) for name, left in self._left.items())
        return 1.0 - left / total

    def _eta(self) -> float | None:
        if not all(name in self._expected for name in self._stages):
            return None
        return sum(self._expected[name] * self._stages[name].work_left(left) for name, left in self._left.items())


def preview_frames(frames: int) -> list[int]:
    """The frames of a clip that its previews show: all, or MAX_PREVIEW_FRAMES of them, the first and the last too."""
    if frames <= MAX_PREVIEW_FRAMES:
        return list(range(frames))
    return [round(frame) for frame in np.linspace(0, frames - 1, MAX_PREVIEW_FRAMES).tolist()]


def to_uint8(video: Tensor) -> Tensor:
    """(frames, 3, height, width) in [-1, 1] → uint8 (frames, height, width, 3), truncating as the published code
    does."""
    return ((video.float() + 1) * 127.5).clamp(0, 255).to(torch.uint8).movedim(1, -1).contiguous()
