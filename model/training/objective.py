"""The training objective of MM-Diffusion (Ruan et al., CVPR 2023, eq. 5): predict the noise of both modalities."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.coupled_unet import CoupledUNet
from model.latents import Latents
from model.schedule import NoiseSchedule


@dataclass(frozen=True)
class LossTerms:
    """Mean squared errors of the predicted noise, one a sample (batch,)."""

    video: Tensor
    audio: Tensor

    @property
    def total(self) -> Tensor:
        """The mean over the batch of both terms' sum. Each is a mean over its own elements, so both weigh the same."""
        return (self.video + self.audio).mean()


def diffuse(schedule: NoiseSchedule, x0: Latents, t_video: Tensor, t_audio: Tensor, noise: Latents) -> Latents:
    """A draw from q(x_t | x_0) with a time for each sample and modality; times are (batch,) integers."""

    def mix(clean: Tensor, times: Tensor, eps: Tensor) -> Tensor:
        alpha_bar = torch.as_tensor(schedule.alpha_bar, device=clean.device)[times]
        alpha_bar = alpha_bar.view(-1, *[1] * (clean.ndim - 1))
        return alpha_bar.sqrt().to(clean.dtype) * clean + (1 - alpha_bar).sqrt().to(clean.dtype) * eps

    return Latents(mix(x0["video"], t_video, noise["video"]), mix(x0["audio"], t_audio, noise["audio"]))


def noise_prediction_loss(
    network: CoupledUNet,
    schedule: NoiseSchedule,
    x0: Latents,
    t_video: Tensor,
    t_audio: Tensor,
    noise: Latents,
    shifts: Tensor | None = None,
) -> LossTerms:
    """The loss at given times, noise and RS-MMA shifts; the paper trains with t_video = t_audio."""
    x = diffuse(schedule, x0, t_video, t_audio, noise)
    eps_video, eps_audio = network(x["video"], x["audio"], t_video, t_audio, shifts)

    def mean_square(predicted: Tensor | None, eps: Tensor) -> Tensor:
        assert predicted is not None
        return (predicted - eps).square().flatten(1).mean(1)

    return LossTerms(mean_square(eps_video, noise["video"]), mean_square(eps_audio, noise["audio"]))
