"""Clips of any length: one long state, cut into windows of the network's length at every evaluation.

The sampler steps on the whole state. Each of its requests is cut into windows that overlap by a few frames; guidance
acts on each window as on a clip of its own; the windows' x̂_0 are joined with weights that sum to 1, and the sampler
gets the ε̂ of the joined x̂_0 (MultiDiffusion: Bar-Tal et al., ICML 2023, in x̂_0). The cuts are drawn anew for every
evaluation, so that no place of the clip is a border more often than others. The windows at the two ends are moved
inside the clip: the frames of k windows take up to k + 1 windows, overlaps aside.

Sound is cut where frames are, at a whole number of samples for each frame.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from model.sampling.guidance import respond
from model.sampling.latents import Latents
from model.sampling.samplers import Evaluate, EvaluateAll, Prediction, Sampler
from model.sampling.schedule import NoiseSchedule

Guide = Callable[[Sampler, int], Sampler]
"""Wraps the requests of one window, which starts at the given frame, in guidance."""

Draw = Callable[[int, int], int]
"""A whole number between two others, both included, from the output's own random stream."""


@dataclass(frozen=True)
class Windows:
    """How a clip of `frames` frames, with `samples` audio samples for each, is cut for a network that sees `window`
    frames. Neighbouring windows overlap by at least `overlap` frames."""

    frames: int
    window: int
    samples: int
    overlap: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.window <= self.frames:
            raise ValueError(
                f"overlap must be less than the window, and the window at most the clip; got {self.overlap}, "
                f"{self.window} and {self.frames} frames"
            )

    def starts(self, draw: Draw) -> list[int]:
        """First frames of the windows for one evaluation, ascending; the first is 0, the last frames − window."""
        last = self.frames - self.window
        if not last:
            return [0]
        stride = self.window - self.overlap
        return [0, *range(draw(1, stride), last, stride), last]

    @property
    def most(self) -> int:
        """The most windows that an evaluation may need."""
        last, stride = self.frames - self.window, self.window - self.overlap
        return 1 + bool(last) + len(range(1, last, stride))

    def cut(self, x: Latents, start: int) -> Latents:
        """The window of `x` that starts at frame `start`."""
        stop = start + self.window
        return Latents(
            x.video[:, start:stop] if x.video is not None else None,
            x.audio[..., start * self.samples : stop * self.samples] if x.audio is not None else None,
        )

    def join(self, parts: Sequence[Latents], starts: Sequence[int]) -> Latents:
        """The whole clip from its windows, cross-faded linearly where two overlap."""

        def whole(modality: str, per_frame: int, axis: int) -> Tensor | None:
            if getattr(parts[0], modality) is None:
                return None
            like = parts[0][modality]
            shape = list(like.shape)
            shape[axis] = self.frames * per_frame
            total = like.new_zeros(shape)
            for part, start, weight in zip(parts, starts, self.weights(starts, per_frame), strict=True):
                place = total.narrow(axis, start * per_frame, self.window * per_frame)
                place += part[modality] * weight.to(like).view(-1, *(1,) * (like.dim() - 1 - axis % like.dim()))
            return total

        return Latents(whole("video", 1, 1), whole("audio", self.samples, -1))

    def weights(self, starts: Sequence[int], per_frame: int) -> list[Tensor]:
        """The weight of each window at `per_frame` points a frame, (window · per_frame,) float64. They sum to 1 at
        every point of the clip.

        A window's share falls with the distance to its nearer edge, the clip's own ends aside: where two windows
        overlap, that is a linear cross-fade.
        """
        size = self.window * per_frame
        inside = torch.arange(size, dtype=torch.float64) + 0.5
        shares = []
        for start in starts:
            from_left = inside if start > 0 else torch.full_like(inside, torch.inf)
            from_right = size - inside if start + self.window < self.frames else torch.full_like(inside, torch.inf)
            shares.append(torch.minimum(from_left, from_right).clamp(max=size))
        total = torch.zeros(self.frames * per_frame, dtype=torch.float64)
        places = [slice(start * per_frame, start * per_frame + size) for start in starts]
        for place, share in zip(places, shares, strict=True):
            total[place] += share
        return [share / total[place] for place, share in zip(places, shares, strict=True)]


def windowed(
    sampler: Sampler,
    schedule: NoiseSchedule,
    windows: Callable[[float], Windows],
    draw: Draw,
    guide: Guide,
    answered: Callable[[int, int], None] = lambda done, total: None,
) -> Generator[EvaluateAll, list[Prediction], Latents]:
    """Drive `sampler`, whose state is a whole clip, with a network that sees windows of it.

    `windows(t)` says how to cut at time t. `answered(done, total)` is called as windows of a request are answered.
    """

    def answer(request: Evaluate) -> Generator[EvaluateAll, list[Prediction], Prediction]:
        cut = windows(request.t)
        starts = cut.starts(draw)
        parts = [replace(request, x=cut.cut(request.x, start)) for start in starts]
        chains = [guide(_ask(part), start) for part, start in zip(parts, starts, strict=True)]
        predictions = yield from together(chains, answered)
        x0 = [
            schedule.to_x0(part.x, prediction.eps, request.t)
            for part, prediction in zip(parts, predictions, strict=True)
        ]
        return Prediction(schedule.to_eps(request.x, cut.join(x0, starts), request.t))

    return respond(sampler, answer)


def together(
    chains: Sequence[Sampler], answered: Callable[[int, int], None] = lambda done, total: None
) -> Generator[EvaluateAll, list[Prediction], list[Prediction]]:
    """Drive independent chains in rounds: each round requests the next evaluation of every chain that has not ended.

    Returns what the chains return, in their order.
    """
    results: dict[int, Prediction] = {}
    answers: dict[int, Prediction | None] = dict.fromkeys(range(len(chains)))
    while True:
        asked: dict[int, Evaluate] = {}
        for number, answer in answers.items():
            try:
                asked[number] = next(chains[number]) if answer is None else chains[number].send(answer)
            except StopIteration as stop:
                results[number] = stop.value
        if not asked:
            return [results[number] for number in range(len(chains))]
        predictions = yield EvaluateAll(tuple(asked.values()), partial(_report, answered, len(asked)))
        answers = dict(zip(asked, predictions, strict=True))


def _report(answered: Callable[[int, int], None], total: int, done: int) -> None:
    answered(done, total)


def _ask(request: Evaluate) -> Sampler:
    """A single request, as a sampler for guidance to wrap."""
    return (yield request)
