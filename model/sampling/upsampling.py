"""The super-resolution stage as requests: frames of one clip, low resolution given, through any sampler.

The network sees the bilinearly upsampled frame beside the noisy one (Ho et al., Cascaded Diffusion Models, 2022). All
frames of a clip share their noise, so that texture does not flicker.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace

from torch import Tensor

from model.sampling.latents import State, clip
from model.sampling.samplers import EvaluateFrames, Prediction, Sampler
from model.sampling.schedule import NoiseSchedule


def super_resolve(
    sampler: Sampler, schedule: NoiseSchedule, upsampled: Tensor, limit: Callable[[State], State] = clip
) -> Generator[EvaluateFrames, Prediction, Tensor]:
    """Drive `sampler` over frames (frames, 3, height, width) with the network's x̂_0 kept in bounds, given the
    upsampled clip."""
    try:
        request = next(sampler)
        while True:
            prediction = yield EvaluateFrames(request.x, upsampled, request.t)
            x0 = limit(schedule.to_x0(request.x, prediction.eps, request.t))
            request = sampler.send(replace(prediction, eps=schedule.to_eps(request.x, x0, request.t)))
    except StopIteration as stop:
        return stop.value
