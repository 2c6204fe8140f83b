"""The training objective of MM-Diffusion (Ruan et al., CVPR 2023, eq. 5): predict the noise of both modalities.

With independent timesteps (Bao et al., UniDiffuser, ICML 2023) a modality may also be given clean: it then enters
without noise at t = 0, as clean conditioning will give it, and what the network says about it is no part of the loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from model.latents import Latents
from model.schedule import NoiseSchedule

Predict = Callable[..., tuple[Tensor | None, Tensor | None]]
"""A network, or what stands for one: (video, audio, t_video, t_audio, shifts) → (eps_video, eps_audio)."""


@dataclass(frozen=True)
class LossTerms:
    """Mean squared errors of the predicted noise, one a sample (batch,); 0 for a modality that is not predicted."""

    video: Tensor
    audio: Tensor

    @property
    def total(self) -> Tensor:
        """The mean over the batch of both terms' sum. Each is a mean over its own elements, so both weigh the same."""
        return (self.video + self.audio).mean()


def diffuse(schedule: NoiseSchedule, x0: Latents, t_video: Tensor, t_audio: Tensor, noise: Latents) -> Latents:
    """A draw from q(x_t | x_0) with a time for each sample and modality; times are (batch,) integers."""
    device = next(value.device for value in (x0.video, x0.audio) if value is not None)
    alpha_bars = _alpha_bars(schedule, device)
    times = Latents(t_video, t_audio)

    def mix(clean: Tensor, eps: Tensor, times: Tensor) -> Tensor:
        alpha_bar = alpha_bars[times].view(-1, *[1] * (clean.ndim - 1))
        return alpha_bar.sqrt().to(clean.dtype) * clean + (1 - alpha_bar).sqrt().to(clean.dtype) * eps

    return x0.map(mix, noise, times)


def noise_prediction_loss(
    network: Predict,
    schedule: NoiseSchedule,
    x0: Latents,
    t_video: Tensor,
    t_audio: Tensor,
    noise: Latents,
    shifts: Tensor | None = None,
    clean: tuple[Tensor, Tensor] | None = None,
) -> LossTerms:
    """The loss at given times, noise and RS-MMA shifts; the paper trains with t_video = t_audio.

    `clean`: for video and for audio, the samples (batch,), bool, where it enters without noise. A modality that is None
    in `x0` is not given to the network.
    """
    x = diffuse(schedule, x0, t_video, t_audio, noise)
    if clean is not None:
        x = x.map(_choose, x0, Latents(*clean))
    predicted = network(
        x.video, x.audio, None if x.video is None else t_video, None if x.audio is None else t_audio, shifts
    )

    def mean_square(index: int, eps: Tensor | None) -> Tensor:
        guess = predicted[index]
        if guess is None or eps is None:
            return torch.zeros(x0.batch, device=t_video.device)
        squares = (guess - eps).square().flatten(1).mean(1)
        return squares if clean is None else squares.masked_fill(clean[index], 0.0)

    return LossTerms(mean_square(0, noise.video), mean_square(1, noise.audio))


@lru_cache(maxsize=8)
def _alpha_bars(schedule: NoiseSchedule, device: torch.device) -> Tensor:
    """Kept on the device: sending them there in every step would wait for it."""
    return torch.as_tensor(schedule.alpha_bar, device=device)


def _choose(noisy: Tensor, x0: Tensor, clean: Tensor) -> Tensor:
    return torch.where(clean.view(-1, *[1] * (x0.ndim - 1)), x0, noisy)
