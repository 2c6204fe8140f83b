"""The objective of super-resolution: the squared error of the prediction and, where the network learns the variance of
a reverse step, a term of the variational bound.

Improved DDPM (Nichol and Dhariwal, 2021): the squared error trains the mean only, the bound, in bits per dimension, the
variance only. The logits v interpolate log β_t (v = 1) and log β̃_t (v = −1), section 3.1 there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from model.networks.config import PredictionType
from model.sampling.prediction import loss_weight, to_eps, training_target
from model.sampling.schedule import NoiseSchedule

LEVEL = 1.0 / 255.0
"""Half the distance between two of the 256 levels of a pixel in [-1, 1]."""


def super_resolution_loss(
    network: Callable[..., tuple[Tensor, Tensor | None]],
    schedule: NoiseSchedule,
    x0: Tensor,
    low_res: Tensor,
    t: Tensor,
    noise: Tensor,
    prediction: PredictionType = "eps",
) -> dict[str, Tensor]:
    """`mse` of the prediction and, if the variance is learned, `vb`: one value per frame (batch,).

    `x0` and `noise` are (batch, 3, H, W), `low_res` holds the small frames, `t` integer times (batch,).
    """
    alpha_bar = _at(schedule.alpha_bar_on(t.device), t)
    alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    x = alpha * x0 + sigma * noise
    predicted, logits = network(x, low_res, t)
    wanted = training_target(prediction, x0, noise, alpha, sigma)
    weight = loss_weight(prediction, sigma).flatten()
    terms = {"mse": (predicted - wanted).square().flatten(1).mean(1) * weight}
    if logits is not None:
        eps = to_eps(prediction, predicted.detach(), x, alpha, sigma)
        terms["vb"] = variational_bound(schedule, x0, x, t, eps, logits)
    return terms


def variational_bound(schedule: NoiseSchedule, x0: Tensor, x: Tensor, t: Tensor, eps: Tensor, logits: Tensor) -> Tensor:
    """The term for t, in bits per dimension (batch,): KL(q(x_{t−1} | x_t, x_0) ‖ p(x_{t−1} | x_t)), and at t = 0 the
    discretised log-likelihood of x_0."""
    tables = _bound_tables(schedule, t.device)
    of_x0, of_xt, log_posterior, log_beta = (_at(table, t) for table in tables)
    a = _at(schedule.alpha_bar_on(t.device), t)
    guess = (x - (1 - a).sqrt() * eps) / a.sqrt()
    mean, predicted = of_x0 * x0 + of_xt * x, of_x0 * guess + of_xt * x
    share = (logits + 1) / 2
    log_variance = share * log_beta + (1 - share) * log_posterior
    kl = 0.5 * (
        log_variance
        - log_posterior
        - 1.0
        + (log_posterior - log_variance).exp()
        + (mean - predicted).square() * (-log_variance).exp()
    )
    likelihood = -discretised_log_likelihood(x0, predicted, 0.5 * log_variance)
    nats = torch.where((t == 0).view(-1, 1, 1, 1), likelihood, kl)
    return nats.flatten(1).mean(1) / math.log(2.0)


def discretised_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """log P of each pixel's level in `x` under a Gaussian; the outermost levels include its tails (Ho et al., 2020,
    eq. 13; the normal distribution function is approximated with tanh)."""

    def below(value: Tensor) -> Tensor:
        return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (value + 0.044715 * value**3)))

    centred, precision = x - mean, (-log_scale).exp()
    upper, lower = below(precision * (centred + LEVEL)), below(precision * (centred - LEVEL))
    inside = (upper - lower).clamp(min=1e-12).log()
    first, last = upper.clamp(min=1e-12).log(), (1.0 - lower).clamp(min=1e-12).log()
    return torch.where(x < -0.999, first, torch.where(x > 0.999, last, inside))


@lru_cache(maxsize=8)
def _bound_tables(schedule: NoiseSchedule, device: torch.device) -> tuple[Tensor, ...]:
    """For every index, float64: the coefficients of x_0 and x_t in the posterior's mean, log β̃_t and log β_t. Cached on
    the device, since a copy in every step would synchronise."""
    betas, alpha_bar = schedule.betas, schedule.alpha_bar
    before = np.concatenate([[1.0], alpha_bar[:-1]])
    posterior = betas * (1 - before) / (1 - alpha_bar)
    posterior[0] = posterior[1] if len(posterior) > 1 else betas[0]  # β̃_0 is 0, and its logarithm infinite
    of_x0 = betas * np.sqrt(before) / (1 - alpha_bar)
    of_xt = (1 - before) * np.sqrt(1 - betas) / (1 - alpha_bar)
    tables = (of_x0, of_xt, np.log(posterior), np.log(betas))
    return tuple(torch.as_tensor(table, device=device) for table in tables)


def _at(table: Tensor, t: Tensor) -> Tensor:
    return table[t].float().view(-1, 1, 1, 1)
