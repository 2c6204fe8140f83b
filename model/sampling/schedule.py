"""The forward process q(x_t | x_0) = N(α_t x_0, σ_t² I) with α_t = √ᾱ_t, σ_t = √(1 − ᾱ_t), and time grids for sampling.

Time is the index of the discrete schedule, 0 … steps − 1, taken as a real number: between two indices log α is linear
(Lu et al., DPM-Solver, 2022, appendix D). `CLEAN` is the time before the first index, where α = 1 and σ = 0. All
tables are float64 and all functions of time return Python floats, so that samplers never wait for a device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from model.networks.config import ScheduleConfig, integer_stride
from model.sampling.latents import State

CLEAN = -1.0


class NoiseSchedule:
    """ᾱ_t of a schedule and quantities derived from it."""

    def __init__(self, betas: Sequence[float] | np.ndarray) -> None:
        self.betas = np.asarray(betas, dtype=np.float64)
        self.alpha_bar = np.cumprod(1.0 - self.betas)
        self._on_device: dict[torch.device, torch.Tensor] = {}
        self._index = np.arange(-1, len(self.betas), dtype=np.float64)
        self._log_alpha = np.concatenate([[0.0], 0.5 * np.log(self.alpha_bar)])

    @classmethod
    def from_config(cls, config: ScheduleConfig) -> NoiseSchedule:
        return cls(linear_betas(config.steps) if config.kind == "linear" else cosine_betas(config.steps))

    def alpha_bar_on(self, device: torch.device) -> torch.Tensor:
        """ᾱ of every index as a float64 tensor, kept on `device`: sending it there each time would wait for it."""
        if device not in self._on_device:
            self._on_device[device] = torch.as_tensor(self.alpha_bar, device=device)
        return self._on_device[device]

    @property
    def last(self) -> float:
        """The noisiest time."""
        return float(len(self.betas) - 1)

    def log_alpha(self, t: float) -> float:
        return float(np.interp(t, self._index, self._log_alpha))

    def alpha(self, t: float) -> float:
        return math.exp(self.log_alpha(t))

    def sigma(self, t: float) -> float:
        return math.sqrt(-math.expm1(2.0 * self.log_alpha(t)))

    def log_snr(self, t: float) -> float:
        """λ_t = log(α_t / σ_t), half the log signal-to-noise ratio; infinite at CLEAN."""
        sigma = self.sigma(t)
        return self.log_alpha(t) - math.log(sigma) if sigma > 0 else math.inf

    def time_of_log_snr(self, log_snr: float) -> float:
        """Inverse of `log_snr`."""
        log_alpha = -0.5 * float(np.logaddexp(0.0, -2.0 * log_snr))
        return float(np.interp(log_alpha, self._log_alpha[::-1], self._index[::-1]))

    def model_time(self, t: float) -> int:
        """The network's integer timestep: truncated as in the published code, with a margin for rounding errors."""
        return max(0, math.floor(t + 1e-4))

    def add_noise(self, x0: State, t: float, noise: State) -> State:
        """A draw from q(x_t | x_0)."""
        return self.alpha(t) * x0 + self.sigma(t) * noise

    def to_x0(self, x: State, eps: State, t: float) -> State:
        """x̂_0 = (x_t − σ_t ε̂) / α_t."""
        return (x - self.sigma(t) * eps) / self.alpha(t)

    def to_eps(self, x: State, x0: State, t: float) -> State:
        """ε̂ = (x_t − α_t x̂_0) / σ_t."""
        return (x - self.alpha(t) * x0) / self.sigma(t)

    def transition_beta(self, t: float, s: float) -> float:
        """β of the single step from s to t: 1 − ᾱ_t / ᾱ_s."""
        return -math.expm1(2.0 * (self.log_alpha(t) - self.log_alpha(s)))

    def posterior(self, t: float, s: float) -> tuple[float, float, float]:
        """Coefficients (of x̂_0, of x_t) of the mean of q(x_s | x_t, x_0), and its variance (Ho et al., 2020, eq.
        7)."""
        beta, variance_t, variance_s = self.transition_beta(t, s), self.sigma(t) ** 2, self.sigma(s) ** 2
        of_x0 = self.alpha(s) * beta / variance_t
        of_xt = math.sqrt(1.0 - beta) * variance_s / variance_t
        return of_x0, of_xt, beta * variance_s / variance_t

    def grid(self, intervals: int, spacing: str, start: float | None = None) -> list[float]:
        """`intervals` + 1 times from `start` (the noisiest by default) to index 0, as the published DPM-Solver spaces
        them.

        `log_snr`: uniform in λ. `uniform`: uniform in t. `quadratic`: uniform in √t, with t = (index + 1) / steps.
        """
        start = self.last if start is None else start
        if intervals == 0:
            return [start]
        share = np.linspace(0.0, 1.0, intervals + 1)[1:-1]
        if spacing == "log_snr":
            high, low = self.log_snr(0.0), self.log_snr(start)
            inner = [self.time_of_log_snr(low + k * (high - low)) for k in share]
        elif spacing == "uniform":
            inner = list(start * (1.0 - share))
        elif spacing == "quadratic":
            root = math.sqrt(start + 1.0)
            inner = list((root + share * (1.0 - root)) ** 2 - 1.0)
        else:
            raise ValueError(f"spacing must be log_snr, uniform or quadratic; got {spacing!r}")
        return [start, *(float(t) for t in inner), 0.0]

    def times(self, steps: int, spacing: str, start: float | None = None) -> list[float]:
        """`steps` evaluation times from `start` to index 0, then CLEAN, so that the last step removes all noise."""
        return [*self.grid(steps - 1, spacing, start), CLEAN]


def linear_betas(steps: int) -> np.ndarray:
    """1e-4 … 0.02 at 1000 steps, scaled to keep the same ᾱ at the end for other counts (Ho et al., 2020)."""
    scale = 1000.0 / steps
    return np.linspace(scale * 1e-4, scale * 0.02, steps, dtype=np.float64)


def cosine_betas(steps: int) -> np.ndarray:
    """ᾱ follows a squared cosine; β at most 0.999 (Nichol and Dhariwal, 2021, eq. 17)."""
    alpha_bar = [math.cos((i / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(steps + 1)]
    return np.array([min(1.0 - after / before, 0.999) for before, after in pairwise(alpha_bar)])


def respaced_times(steps: int, respacing: str) -> list[float]:
    """The timesteps that the published `space_timesteps` keeps (Nichol and Dhariwal, 2021), noisiest first, then CLEAN.

    `ddimN`: N steps of one integer stride from 0. `a,b,c`: the schedule in equal sections, with that many steps in
    each; a single number is one section. A section's stride is added up in floating point and every sum is rounded,
    half to even. That can differ from rounding k · stride: with 21 of 1000 steps, for example.

    Raises ValueError where the schedule cannot be divided so.
    """
    if respacing.startswith("ddim"):
        wanted = int(respacing.removeprefix("ddim"))
        stride = integer_stride(steps, wanted)
        if stride is None:
            raise ValueError(f"no integer stride divides {steps} steps into {wanted}")
        kept = list(range(0, steps, stride))
    else:
        counts = [int(part) for part in respacing.split(",")]
        if min(counts) < 0 or not any(counts):
            raise ValueError(f"a respacing must keep one step or more; got {respacing!r}")
        kept, start = [], 0
        for section, count in enumerate(counts):
            size = steps // len(counts) + (section < steps % len(counts))
            if count > size:
                raise ValueError(f"a section of {size} steps cannot be divided into {count}")
            fractional_stride = (size - 1) / (count - 1) if count > 1 else 1.0
            position = 0.0
            for _ in range(count):
                kept.append(start + round(position))
                position += fractional_stride
            start += size
    return [*(float(t) for t in reversed(kept)), CLEAN]
