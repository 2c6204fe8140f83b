"""The super-resolution stage of one output, in groups of frames."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from model.networks.super_resolution import SRUNet
from model.request import SamplingParams
from model.runtime.step_progress import ClipPreview, Reporter, preview_frames, to_uint8
from model.sampling import samplers
from model.sampling.latents import clip
from model.sampling.randomness import RandomStream
from model.sampling.samplers import Evaluate, Prediction, Sampler
from model.sampling.schedule import NoiseSchedule, respaced_times
from model.sampling.tuned import tuned
from model.sampling.tuned_solver import TunedSolver
from model.sampling.upsampling import super_resolve


def groups(frames: int, size: int) -> Sequence[range]:
    """A clip's frames in groups of `size`, the last one of what is left."""
    return [range(start, min(start + size, frames)) for start in range(0, frames, size)]


class SuperResolution:
    """Enlarges the frames of one clip, group by group: DDIM from noise, as published; or, cheaper, from the noised
    upsampled frame, whose mean is already right, at the noisiest time or a lower one.

    All frames of the clip share one frame of noise, drawn once, and the network sees every frame by itself. A frame
    therefore does not depend on the group that it is in, and the borders of groups do not show.

    `tuned`: the solvers of the sampler of that name, by number of steps. `seen`: the base stage's frames that the
    previews show, uint8 (frames, height, width, 3), of `frames` in all.
    """

    def __init__(
        self,
        network: SRUNet,
        schedule: NoiseSchedule,
        tuned: Mapping[int, TunedSolver],
        params: SamplingParams,
        stream: RandomStream,
        report: Reporter,
        seen: Tensor,
        frames: int,
    ) -> None:
        self._network = network
        self._schedule = schedule
        self._tuned = tuned
        self._params = params
        self._stream = stream
        self._report = report
        self._seen = seen
        self._chosen = preview_frames(frames)
        self._noise: Tensor | None = None

    def enlarge(self, frames: Tensor, group: range, wanted: Sequence[int] | None = None) -> Generator[Any, Any, Tensor]:
        """Yields requests for the super-resolution network, and returns the `frames` (frames, 3, height, width) of
        `group` enlarged. Where only some of its numbers are `wanted`, the other frames are interpolated."""
        if wanted is None or len(wanted) == len(group):
            return (yield from self._enlarge(frames, group))
        result = self._network.upsample(frames)
        if wanted:
            inside = [number - group.start for number in wanted]
            result[inside] = yield from self._enlarge(frames[inside], wanted)
        return result

    def _enlarge(self, frames: Tensor, group: Sequence[int]) -> Generator[Any, Any, Tensor]:
        upsampled = self._network.upsample(frames)
        if self._noise is None:
            self._noise = self._stream.normal(upsampled.shape[1:], upsampled.device)
        sampler = self._sampler(upsampled, self._noise.expand_as(upsampled))
        followed = self._report.follow(sampler, "sr", partial(self._preview, self._seen, group))
        made = yield from super_resolve(followed, self._schedule, upsampled)
        self._seen = self._with(self._seen, group, lambda inside: made[inside])
        return made

    def _sampler(self, upsampled: Tensor, noise: Tensor) -> Sampler:
        schedule, steps = self._schedule, self._params.sr_steps
        assert steps is not None
        if self._params.sr_sampler == "ddim":
            return samplers.ddim(noise, schedule, respaced_times(len(schedule.betas), f"ddim{steps}"))
        if self._params.sr_sampler == "tuned":
            solver = self._tuned[steps]
            return tuned(schedule.add_noise(upsampled, solver.times[0], noise), schedule, solver)
        times = schedule.times(steps, "log_snr", self._params.sr_start)
        return samplers.dpmpp_2m(schedule.add_noise(upsampled, times[0], noise), schedule, times)

    def _preview(
        self, seen: Tensor, group: Sequence[int], request: Evaluate, prediction: Prediction | None
    ) -> Callable[[], ClipPreview]:
        """Shows the whole clip at the base stage's size, with `group` as it is now."""

        def now(inside: list[int]) -> Tensor:
            x = request.x[inside]
            return clip(x if prediction is None else self._schedule.to_x0(x, prediction.eps[inside], request.t))

        return lambda: ClipPreview(self._with(seen, group, now), None)

    def _with(self, seen: Tensor, group: Sequence[int], enlarged: Callable[[list[int]], Tensor]) -> Tensor:
        """`seen` with the frames of `group`; `enlarged` gives those of these numbers in it."""
        places = [place for place, frame in enumerate(self._chosen) if frame in group]
        if not places:
            return seen
        frames = enlarged([group.index(self._chosen[place]) for place in places]).float()
        small = to_uint8(functional.interpolate(frames, tuple(seen.shape[1:3]), mode="area"))
        return seen.index_copy(0, torch.tensor(places), small.cpu())
