"""Targets with a known exact denoiser and probability-flow solution, as references for samplers."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from model.sampling.latents import Latents
from model.sampling.samplers import Evaluate, Prediction, Sampler
from model.sampling.schedule import NoiseSchedule

Denoiser = Callable[[Tensor, float], Tensor]


class Mixture:
    """A one-dimensional mixture of equally weighted normals at `means` with standard deviation `std`."""

    def __init__(self, schedule: NoiseSchedule, means: tuple[float, ...], std: float) -> None:
        self.schedule = schedule
        self.means = torch.tensor(means, dtype=torch.float64)
        self.std = std

    def _at(self, t: float) -> tuple[Tensor, float]:
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        return alpha * self.means, math.sqrt((alpha * self.std) ** 2 + sigma**2)

    def eps(self, x: Tensor, t: float) -> Tensor:
        """E[ε | x_t] = −σ_t ∇ log p_t(x_t)."""
        means, std = self._at(t)
        offset = x[..., None] - means
        weight = torch.softmax(-0.5 * (offset / std) ** 2, dim=-1)
        return self.schedule.sigma(t) * (weight * offset).sum(-1) / std**2

    def flow(self, x: Tensor, t: float, s: float) -> Tensor:
        """Solution of the probability-flow ODE from x_t to time s. In one dimension it preserves quantiles; solved by
        bisection."""
        quantile = self._cdf(x, t)
        low, high = torch.full_like(x, -20.0), torch.full_like(x, 20.0)
        for _ in range(80):
            middle = (low + high) / 2
            below = self._cdf(middle, s) < quantile
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2

    def _cdf(self, x: Tensor, t: float) -> Tensor:
        means, std = self._at(t)
        return torch.special.ndtr((x[..., None] - means) / std).mean(-1)


def solve(chain: Sampler, answer: Callable[[Evaluate], Prediction]) -> Latents:
    """The result of `chain` with `answer` for each of its evaluations."""
    try:
        request = next(chain)
        while True:
            request = chain.send(answer(request))
    except StopIteration as stop:
        return stop.value


def run(sampler: Sampler, denoiser: Denoiser) -> tuple[Tensor, list[float]]:
    """The sampler's result with `denoiser` as its network, and the times of its evaluations."""
    times = []
    try:
        request = next(sampler)
        while True:
            times.append(request.t)
            request = sampler.send(Prediction(denoiser(request.x, request.t)))
    except StopIteration as stop:
        return stop.value, times
