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

import torch
from torch import Tensor

from model.sampling.guidance import respond
from model.sampling.latents import Latents
from model.sampling.samplers import Evaluate, EvaluateAll, Prediction, Sampler, ask
from model.sampling.schedule import NoiseSchedule
from model.sampling.transfer import to_device

Guide = Callable[[Sampler, int], Sampler]
"""Wraps the requests of one window, which starts at the given frame, in guidance."""

AT_ONCE = 16
"""Windows that are requested together; a longer clip's windows follow one another, so that they take no more memory."""

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

    def borders(self, starts: Sequence[int]) -> list[int]:
        """The frames inside the clip at which a window of those at `starts` begins or has ended, ascending."""
        edges = {start + offset for start in starts for offset in (0, self.window)}
        return sorted(edges - {0, self.frames})

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

    def clipped(self, x: Latents) -> Latents:
        """The clip at the beginning of `x`, which may be longer."""
        return Latents(
            x.video[:, : self.frames] if x.video is not None else None,
            x.audio[..., : self.frames * self.samples] if x.audio is not None else None,
        )

    def add(self, total: Latents, part: Latents, starts: Sequence[int], number: int) -> None:
        """Add window `number` of those at `starts` to `total`, a whole clip, in place; from zeros, all of them make up
        the clip."""
        first = starts[number]
        if total.video is not None:
            weight = to_device(self.weight(starts, number, 1).to(total.video.dtype), total.video.device)
            total.video[:, first : first + self.window] += part["video"] * weight.view(-1, 1, 1, 1)
        if total.audio is not None:
            weight = to_device(self.weight(starts, number, self.samples).to(total.audio.dtype), total.audio.device)
            place = slice(first * self.samples, (first + self.window) * self.samples)
            total.audio[..., place] += part["audio"] * weight

    def weight(self, starts: Sequence[int], number: int, per_frame: int) -> Tensor:
        """The weight of window `number` of those at `starts`, at `per_frame` points a frame, (window · per_frame,)
        float64. At every point of the clip the weights sum to 1.

        A window's share falls with the distance to its nearer edge, the clip's own ends aside: where two windows
        overlap, that is a linear cross-fade.
        """
        own = self._share(starts[number], per_frame)
        total, size = own.clone(), len(own)
        for other, start in enumerate(starts):
            offset = (start - starts[number]) * per_frame
            if other != number and abs(offset) < size:
                share = self._share(start, per_frame)
                total[max(0, offset) : size + min(0, offset)] += share[max(0, -offset) : size + min(0, -offset)]
        return own / total

    def _share(self, start: int, per_frame: int) -> Tensor:
        size = self.window * per_frame
        inside = torch.arange(size, dtype=torch.float64) + 0.5
        from_left = inside if start > 0 else torch.full_like(inside, size)
        from_right = size - inside if start + self.window < self.frames else torch.full_like(inside, size)
        return torch.minimum(from_left, from_right)


def share_mean(noise: Tensor, window: int) -> Tensor:
    """Give all windows of `noise` (batch, frames, …) the mean over frames of the first; frames are whole windows.

    A window of `noise` stays standard normal noise if it starts at a multiple of `window`. One that starts s frames
    later does not: the variance of its mean is 1 + 2·s·(window − s) / window² times that of white noise, at most 1.5.
    Hues drift less in a clip whose windows all begin with the same lowest frequency in time.
    """
    windows = noise.unflatten(1, (-1, window))
    means = windows.mean(2, keepdim=True)
    return (windows - means + means[:, :1]).flatten(1, 2)


def windowed(
    sampler: Sampler,
    schedule: NoiseSchedule,
    windows: Callable[[float], Windows],
    draw: Draw,
    guide: Guide,
    on_progress: Callable[[int, Sequence[int]], None] = lambda evaluations, starts: None,
    correct: Callable[[Latents, float], None] = lambda x0, t: None,
) -> Generator[EvaluateAll, list[Prediction], Latents]:
    """Drive `sampler`, whose state is a whole clip, with a network that sees windows of it.

    `windows(t)` says how to cut at time t. `on_progress` is called after each batch of evaluations, with the number
    made for the current request so far and the first frames of its windows. `correct` changes the joined x̂_0 of time t
    in place.
    """

    def answer(request: Evaluate) -> Generator[EvaluateAll, list[Prediction], Prediction]:
        cut = windows(request.t)
        starts = cut.starts(draw)
        x0 = request.x.map(torch.zeros_like)
        evaluations = 0

        def count(more: int) -> None:
            nonlocal evaluations
            evaluations += more
            on_progress(evaluations, starts)

        for first in range(0, len(starts), AT_ONCE):
            group = range(first, min(first + AT_ONCE, len(starts)))
            parts = [replace(request, x=cut.cut(request.x, starts[number])) for number in group]
            chains = [guide(ask(part), starts[number]) for part, number in zip(parts, group, strict=True)]
            predictions = yield from together(chains, count)
            for part, prediction, number in zip(parts, predictions, group, strict=True):
                cut.add(x0, schedule.to_x0(part.x, prediction.eps, request.t), starts, number)
        correct(x0, request.t)
        return Prediction(_to_eps_in_place(schedule, request.x, x0, request.t))

    return respond(sampler, answer)


def together(
    chains: Sequence[Sampler], on_batch: Callable[[int], None] = lambda size: None
) -> Generator[EvaluateAll, list[Prediction], list[Prediction]]:
    """Drive independent chains in rounds: each round requests the next evaluation of every chain that has not ended.

    Returns what the chains return, in their order. `on_batch` is called after each batch of evaluations, with its size.
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
        predictions = yield EvaluateAll(tuple(asked.values()), on_batch)
        answers = dict(zip(asked, predictions, strict=True))


def _to_eps_in_place(schedule: NoiseSchedule, x: Latents, x0: Latents, t: float) -> Latents:
    """ε̂ as `schedule.to_eps`, in the memory of `x0`."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return x0.map(lambda clean, noisy: clean.mul_(-alpha).add_(noisy).div_(sigma), x)
