"""The loss of super-resolution against its definition."""

from __future__ import annotations

import math

import pytest
import torch

from model.networks.config import ScheduleConfig
from model.sampling.schedule import NoiseSchedule
from model.training.super_resolution_loss import discretised_log_likelihood, super_resolution_loss, variational_bound

SCHEDULE = NoiseSchedule.from_config(ScheduleConfig())


def normal_cdf(x: float) -> float:
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def test_the_bound_of_one_pixel_is_the_divergence_of_the_two_gaussians() -> None:
    t, x0, noise, guess, logit = 400, 0.3, -0.8, -0.5, 0.2
    a, before, beta = SCHEDULE.alpha_bar[t], SCHEDULE.alpha_bar[t - 1], SCHEDULE.betas[t]
    x = math.sqrt(a) * x0 + math.sqrt(1 - a) * noise

    def mean(start: float) -> float:
        return (math.sqrt(before) * beta * start + math.sqrt(1 - beta) * (1 - before) * x) / (1 - a)

    posterior = beta * (1 - before) / (1 - a)
    share = (logit + 1) / 2
    variance = math.exp(share * math.log(beta) + (1 - share) * math.log(posterior))
    predicted = mean((x - math.sqrt(1 - a) * guess) / math.sqrt(a))
    kl = 0.5 * (math.log(variance / posterior) + (posterior + (mean(x0) - predicted) ** 2) / variance - 1)

    def filled(value: float) -> torch.Tensor:
        return torch.full((1, 3, 2, 2), value)

    bits = variational_bound(SCHEDULE, filled(x0), filled(x), torch.tensor([t]), filled(guess), filled(logit))
    assert bits.item() == pytest.approx(kl / math.log(2), rel=1e-3)


def test_the_likelihood_of_the_levels_of_a_pixel_sums_to_one() -> None:
    levels = torch.linspace(-1, 1, 256)
    for mean, scale in ((0.1, 0.05), (-0.98, 0.2), (1.0, 0.01)):
        log_p = discretised_log_likelihood(levels, torch.tensor(mean), torch.tensor(math.log(scale)))
        assert log_p.exp().sum().item() == pytest.approx(1.0, abs=1e-3)
    inside = discretised_log_likelihood(torch.tensor(0.2), torch.tensor(0.1), torch.tensor(math.log(0.05)))
    exact = normal_cdf((0.1 + 1 / 255) / 0.05) - normal_cdf((0.1 - 1 / 255) / 0.05)
    assert inside.exp().item() == pytest.approx(exact, rel=0.02)


def test_only_the_bound_trains_the_variance_and_only_the_error_the_noise() -> None:
    eps = torch.zeros(2, 3, 4, 4, requires_grad=True)
    logits = torch.zeros(2, 3, 4, 4, requires_grad=True)
    noise = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    x0 = torch.zeros(2, 3, 4, 4)
    t = torch.tensor([0, 700])
    terms = super_resolution_loss(lambda *_: (eps, logits), SCHEDULE, x0, x0, t, noise)
    assert terms["mse"].tolist() == pytest.approx(noise.square().flatten(1).mean(1).tolist())
    terms["vb"].sum().backward()
    assert eps.grad is None
    assert logits.grad is not None
    assert logits.grad.abs().amin() > 0
