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


def published_timesteps(steps: int, counts: list[int]) -> set[int]:
    """The published rule, section by section: a running sum in floating point, each value rounded half to even."""
    kept: set[int] = set()
    first = 0
    for number, count in enumerate(counts):
        length = steps // len(counts) + (1 if number < steps % len(counts) else 0)
        stride = 1 if count <= 1 else (length - 1) / (count - 1)
        index = 0.0
        for _ in range(count):
            kept.add(first + round(index))
            index += stride
        first += length
    return kept


def kept(steps: int, respacing: str) -> list[int]:
    return [int(t) for t in reversed(respaced_times(steps, respacing)[:-1])]


def test_every_plain_count_keeps_the_published_timesteps() -> None:
    for count in range(1, 1001):
        assert kept(1000, str(count)) == sorted(published_timesteps(1000, [count])), count


@pytest.mark.parametrize("steps", [1000, 999, 250, 77])
def test_sections_keep_the_published_timesteps(steps: int) -> None:
    for counts in ([21, 9], [10, 15, 20], [1, 2, 25], [5, 0, 7], [11, 13, 17, 19], [19] * 4):
        assert kept(steps, ",".join(map(str, counts))) == sorted(published_timesteps(steps, counts)), counts


def test_three_maps_where_a_rounded_multiple_of_the_stride_would_differ() -> None:
    """k · stride, rounded, is half a step further at one of the times of each."""
    for steps, count in ((1000, 21), (1000, differing(1000)[-1]), (250, differing(250)[0])):
        stride = (steps - 1) / (count - 1)
        published = sorted(published_timesteps(steps, [count]))
        assert kept(steps, str(count)) == published
        assert published != [round(k * stride) for k in range(count)]


def differing(steps: int) -> list[int]:
    """Counts where rounding k · stride is not the published rule."""
    return [
        count
        for count in range(2, steps + 1)
        if sorted(published_timesteps(steps, [count])) != [round(k * (steps - 1) / (count - 1)) for k in range(count)]
    ]


@pytest.mark.parametrize("respacing", ["0", "0,0", "-3", "5,-1"])
def test_a_respacing_that_keeps_nothing_is_refused(respacing: str) -> None:
    with pytest.raises(ValueError, match="one step or more"):
        respaced_times(1000, respacing)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [21, 1000, 4000])
def test_every_beta_is_between_0_and_1(kind: str, steps: int) -> None:
    betas = NoiseSchedule.from_config(ScheduleConfig(kind, steps)).betas
    assert len(betas) == steps
    assert 0 < betas.min() <= betas.max() < 1


@pytest.mark.parametrize("steps", [0, -5, 10, 20, 2.5, True, float("nan"), float("inf"), "1000", None, 10**9])
def test_an_invalid_number_of_steps_is_refused(steps: object) -> None:
    with pytest.raises(ConfigError, match=r"steps .*(at least 21|1 … 100000)"):
        ScheduleConfig(steps=steps)  # type: ignore[arg-type]


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


def test_added_noise_is_recovered() -> None:
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
