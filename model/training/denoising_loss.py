"""The training objective of MM-Diffusion (Ruan et al., CVPR 2023, eq. 5): predict the noise of both modalities.

With independent timesteps (Bao et al., UniDiffuser, ICML 2023) a modality may also be clean: it then enters without
noise at t = 0, as in clean conditioning, and the prediction for it is not part of the loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from model.networks.config import PredictionType
from model.networks.pair import Pair
from model.networks.text import TextTokens
from model.sampling.latents import Latents
from model.sampling.prediction import loss_weight, training_target
from model.sampling.schedule import NoiseSchedule

Predict = Callable[..., Pair]
"""A network: clips, times (batch,), shifts or None, and for one with text True (coupled) and captions → predictions."""


@dataclass(frozen=True)
class LossTerms:
    """Mean squared errors of the prediction, one per sample (batch,); 0 for a modality that is not predicted."""

    video: Tensor
    audio: Tensor

    @property
    def total(self) -> Tensor:
        """Batch mean of the sum of both terms. Each is a mean over its own elements, so both have equal weight."""
        return (self.video + self.audio).mean()


def diffuse(schedule: NoiseSchedule, x0: Latents, t_video: Tensor, t_audio: Tensor, noise: Latents) -> Latents:
    """A sample from q(x_t | x_0), with an integer time (batch,) for each modality."""
    device = next(value.device for value in (x0.video, x0.audio) if value is not None)
    alpha_bars = schedule.alpha_bar_on(device)
    times = Latents(t_video, t_audio)

    def mix(clean: Tensor, eps: Tensor, times: Tensor) -> Tensor:
        alpha_bar = alpha_bars[times].view(-1, *[1] * (clean.ndim - 1))
        return alpha_bar.sqrt().to(clean.dtype) * clean + (1 - alpha_bar).sqrt().to(clean.dtype) * eps

    return x0.map(mix, noise, times)


def denoising_loss(
    network: Predict,
    schedule: NoiseSchedule,
    x0: Latents,
    t_video: Tensor,
    t_audio: Tensor,
    noise: Latents,
    shifts: Tensor | None = None,
    clean: tuple[Tensor, Tensor] | None = None,
    prediction: PredictionType = "eps",
    text: TextTokens | None = None,
) -> LossTerms:
    """The loss at given times, noise and RS-MMA shifts; the paper trains with t_video = t_audio.

    `clean`: for video and for audio, a mask (batch,), bool, of the samples that enter without noise. A modality that is
    None in `x0` is not passed to the network. `prediction` is what the network predicts
    (model/sampling/prediction.py); the loss is on that prediction, weighted by `loss_weight`. `text`: the captions.
    """
    x = diffuse(schedule, x0, t_video, t_audio, noise)
    if clean is not None:
        x = x.map(_choose, x0, Latents(*clean))
    return prediction_loss(
        network, schedule, x, x0, noise, t_video, t_audio, shifts, clean=clean, prediction=prediction, text=text
    )


def prediction_loss(
    network: Predict,
    schedule: NoiseSchedule,
    x: Latents,
    x0: Latents,
    eps: Latents,
    t_video: Tensor,
    t_audio: Tensor,
    shifts: Tensor | None = None,
    clean: tuple[Tensor, Tensor] | None = None,
    prediction: PredictionType = "eps",
    text: TextTokens | None = None,
) -> LossTerms:
    """The loss of the prediction at `x`, if `x0` and `eps` are right there; otherwise as `denoising_loss`."""
    clips = Pair(x.video, x.audio)
    words = () if text is None else (True, text)
    predicted = network(clips, clips.map(lambda _, t: t, (t_video, t_audio)), shifts, *words)
    alpha_bars = schedule.alpha_bar_on(t_video.device)

    def mean_square(index: int, clean_value: Tensor | None, noise: Tensor | None, t: Tensor) -> Tensor:
        guess = predicted[index]
        if guess is None or clean_value is None or noise is None:
            return torch.zeros(x.batch, device=t_video.device)
        alpha_bar = alpha_bars[t].to(noise.dtype).view(-1, *[1] * (noise.ndim - 1))
        alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        wanted = training_target(prediction, clean_value, noise, alpha, sigma)
        squares = (guess - wanted).square().flatten(1).mean(1) * loss_weight(prediction, sigma).flatten()
        return squares if clean is None else squares.masked_fill(clean[index], 0.0)

    return LossTerms(mean_square(0, x0.video, eps.video, t_video), mean_square(1, x0.audio, eps.audio, t_audio))


def _choose(noisy: Tensor, x0: Tensor, clean: Tensor) -> Tensor:
    return torch.where(clean.view(-1, *[1] * (x0.ndim - 1)), x0, noisy)
