"""The forward process and the time grids, against their definitions."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from model.networks.config import ConfigError, ScheduleConfig
from model.sampling.schedule import CLEAN, NoiseSchedule, cosine_betas, linear_betas, respaced_times

SCHEDULE = NoiseSchedule(linear_betas(1000))


def test_alpha_bar_is_the_product_of_one_minus_beta() -> None:
    betas = [1e-4 + k * (0.02 - 1e-4) / 999 for k in range(1000)]
    product = 1.0
    for k, beta in enumerate(betas):
        product *= 1 - beta
        assert SCHEDULE.alpha(float(k)) ** 2 == pytest.approx(product, rel=1e-9)


@pytest.mark.parametrize("t", [CLEAN, 0.0, 0.5, 17.3, 500.0, 999.0])
def test_variance_is_preserved_and_log_snr_is_invertible(t: float) -> None:
    assert SCHEDULE.alpha(t) ** 2 + SCHEDULE.sigma(t) ** 2 == pytest.approx(1)
    if t > CLEAN:
        assert SCHEDULE.time_of_log_snr(SCHEDULE.log_snr(t)) == pytest.approx(t, abs=1e-6)
    else:
        assert math.isinf(SCHEDULE.log_snr(t))


def test_the_published_grid() -> None:
    """Times and integer model inputs of the published script: 20 steps, log-SNR."""
    times = SCHEDULE.grid(20, "log_snr")
    assert [(t + 1) / 1000 for t in times[:5]] == pytest.approx([1.0, 0.950985, 0.899295, 0.844449, 0.785819], abs=5e-6)
    inputs = [999, 949, 898, 843, 784, 721, 652, 576, 492, 399, 302, 211, 138, 85, 51, 30, 16, 8, 3, 1]
    assert [SCHEDULE.model_time(t) for t in times[:-1]] == inputs


@pytest.mark.parametrize("spacing", ["log_snr", "uniform", "quadratic"])
@pytest.mark.parametrize("steps", [1, 2, 8, 20, 1000])
def test_grids_descend_from_the_noisiest_time_to_clean(spacing: str, steps: int) -> None:
    times = SCHEDULE.times(steps, spacing)
    assert len(times) == steps + 1
    assert times[0] == 999
    assert times[-1] == CLEAN
    assert all(a > b for a, b in pairwise(times))


def test_a_grid_may_start_later() -> None:
    times = SCHEDULE.times(4, "log_snr", start=600.0)
    assert times[0] == 600
    steps = np.diff([SCHEDULE.log_snr(t) for t in times[:-1]])
    assert np.allclose(steps, steps[0])


def test_an_unknown_spacing_is_refused() -> None:
    with pytest.raises(ValueError, match="spacing must be"):
        SCHEDULE.grid(10, "cubic")


def test_respacings_of_the_published_scripts() -> None:
    assert respaced_times(1000, "ddim25") == [*(float(t) for t in range(960, -1, -40)), CLEAN]
    assert respaced_times(1000, "10")[:3] == [999.0, 888.0, 777.0]
    assert respaced_times(1000, "4,3,3")[:-1] == [999, 833, 667, 666, 500, 334, 333, 222, 111, 0]
    with pytest.raises(ValueError, match="stride"):
        respaced_times(1000, "ddim999")
    with pytest.raises(ValueError, match="section"):
        respaced_times(10, "8,8")


def test_posterior_is_bayes_rule() -> None:
    """q(x_s | x_t, x_0) ∝ q(x_t | x_s) q(x_s | x_0), multiplied out for scalars."""
    t, s = 700.0, 650.0
    of_x0, of_xt, variance = SCHEDULE.posterior(t, s)
    ratio = SCHEDULE.alpha(t) / SCHEDULE.alpha(s)
    beta = SCHEDULE.transition_beta(t, s)
    precision = ratio**2 / beta + 1 / SCHEDULE.sigma(s) ** 2
    assert variance == pytest.approx(1 / precision)
    assert of_xt == pytest.approx(ratio / beta / precision)
    assert of_x0 == pytest.approx(SCHEDULE.alpha(s) / SCHEDULE.sigma(s) ** 2 / precision)


def test_noise_is_added_and_found_again() -> None:
    x0, noise = torch.randn(2, 100, dtype=torch.float64)
    x = SCHEDULE.add_noise(x0, 321.0, noise)
    assert torch.allclose(SCHEDULE.to_x0(x, noise, 321.0), x0)
    assert torch.allclose(SCHEDULE.to_eps(x, x0, 321.0), noise)


def test_cosine_betas_follow_the_squared_cosine() -> None:
    schedule = NoiseSchedule(cosine_betas(1000))
    expected = math.cos((500 / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    assert schedule.alpha(499.0) ** 2 == pytest.approx(expected)
    assert cosine_betas(1000).max() == 0.999


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(ConfigError, match="linear"):
        ScheduleConfig(kind="quadratic")
