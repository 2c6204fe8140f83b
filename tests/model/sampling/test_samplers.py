"""Samplers against targets with a known answer: each converges to the exact solution with its theoretical order."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from model.sampling import latents, samplers
from model.sampling.latents import Latents
from model.sampling.samplers import Prediction, Sampler
from model.sampling.schedule import CLEAN, NoiseSchedule, linear_betas
from tests.model.sampling.analytic import Mixture, run

SCHEDULE = NoiseSchedule(linear_betas(1000))
GAUSSIAN = Mixture(SCHEDULE, (0.0,), 0.5)
TWO_MODES = Mixture(SCHEDULE, (-0.6, 0.6), 0.2)

ORDERS: dict[str, tuple[Callable[..., Sampler], int]] = {
    "ddim": (samplers.ddim, 1),
    "dpm_solver order 1": (partial(samplers.dpm_solver, order=1), 1),
    "dpm_solver order 2": (partial(samplers.dpm_solver, order=2), 2),
    "dpm_solver order 3": (partial(samplers.dpm_solver, order=3), 3),
    "dpm_multistep order 2": (partial(samplers.dpm_multistep, order=2), 2),
    "dpm_multistep order 3": (partial(samplers.dpm_multistep, order=3), 3),
    "dpmpp_2m": (samplers.dpmpp_2m, 2),
    "dpmpp_3m": (samplers.dpmpp_3m, 3),
    "unipc order 2": (partial(samplers.unipc, order=2), 3),
    "unipc order 3": (partial(samplers.unipc, order=3), 3),
}
"""UniPC-p with its corrector has order p + 1; with p = 3 the first steps, of lower order, limit the observed order."""


def error(sampler: Callable[..., Sampler], target: Mixture, steps: int) -> float:
    """Largest distance from the exact solution over a spread of starting points."""
    times = SCHEDULE.grid(steps, "log_snr")
    x = torch.linspace(-2.5, 2.5, 41, dtype=torch.float64)
    result, _ = run(sampler(x, SCHEDULE, times), target.eps)
    return float((result - target.flow(x, times[0], times[-1])).abs().max())


@pytest.mark.parametrize("target", [GAUSSIAN, TWO_MODES], ids=["gaussian", "two modes"])
@pytest.mark.parametrize("name", ORDERS)
def test_error_falls_with_the_theoretical_order(name: str, target: Mixture) -> None:
    sampler, order = ORDERS[name]
    coarse, fine = error(sampler, target, 24), error(sampler, target, 192)
    observed = math.log(coarse / fine, 8)
    assert observed > order - 0.25, f"{name}: error {coarse:.2e} at 24 steps, {fine:.2e} at 192: order {observed:.2f}"


def test_the_published_third_order_update_is_of_second_order() -> None:
    published = partial(samplers.dpmpp_3m, published=True)
    observed = math.log(error(published, GAUSSIAN, 48) / error(published, GAUSSIAN, 192), 4)
    assert observed == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_3m", "unipc", "ddim", "ddpm"])
@pytest.mark.parametrize("steps", [1, 2, 3, 20])
def test_one_evaluation_per_step_and_the_last_step_returns_x0(name: str, steps: int) -> None:
    arguments = {"noise": torch.randn_like} if name == "ddpm" else {}
    times = SCHEDULE.times(steps, "log_snr")
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    seen: list[torch.Tensor] = []

    def denoiser(x: torch.Tensor, t: float) -> torch.Tensor:
        eps = GAUSSIAN.eps(x, t)
        seen.append(SCHEDULE.to_x0(x, eps, t))
        return eps

    result, asked = run(getattr(samplers, name)(x, SCHEDULE, times, **arguments), denoiser)
    assert asked == times[:-1]
    assert torch.allclose(result, seen[-1])


@pytest.mark.parametrize(("steps", "order"), [(1, 3), (2, 3), (3, 3), (10, 3), (20, 3), (7, 2), (8, 2), (5, 1)])
def test_singlestep_uses_every_evaluation(steps: int, order: int) -> None:
    orders = samplers.singlestep_orders(steps, order)
    assert sum(orders) == steps
    times = SCHEDULE.grid(steps, "log_snr")
    _, asked = run(samplers.dpm_solver(torch.zeros(1, dtype=torch.float64), SCHEDULE, times, order), GAUSSIAN.eps)
    assert asked == times[:-1]


def test_ancestral_sampling_reproduces_the_target_distribution() -> None:
    generator = torch.Generator().manual_seed(3)
    noise = lambda x: torch.randn(x.shape, generator=generator, dtype=torch.float64)  # noqa: E731
    x = noise(torch.empty(20_000))
    result, _ = run(samplers.ddpm(x, SCHEDULE, SCHEDULE.times(1000, "uniform"), noise), TWO_MODES.eps)
    assert float((result > 0).double().mean()) == pytest.approx(0.5, abs=0.02)
    assert float((result.abs() - 0.6).std()) == pytest.approx(0.2, abs=0.01)
    assert float(result.abs().mean()) == pytest.approx(0.6, abs=0.01)


def test_eta_one_is_the_ancestral_step() -> None:
    """DDIM with η = 1 draws from the posterior (DDIM, section 4.1)."""
    x, z = torch.randn(2, 50, dtype=torch.float64)
    t, s = 400.0, 300.0
    eps = TWO_MODES.eps(x, t)
    result, _ = run(samplers.ddim(x, SCHEDULE, [t, s], 1.0, lambda _: z), lambda *_: eps)
    of_x0, of_xt, variance = SCHEDULE.posterior(t, s)
    expected = of_x0 * SCHEDULE.to_x0(x, eps, t) + of_xt * x + math.sqrt(variance) * z
    assert torch.allclose(result, expected)


def test_a_stochastic_step_without_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="noise"):
        run(samplers.ddim(torch.zeros(1), SCHEDULE, [500.0, 400.0], 0.5), GAUSSIAN.eps)


def test_learned_variance_lies_between_posterior_and_beta() -> None:
    x = torch.zeros(1, 1, dtype=torch.float64)
    t, s = 500.0, 400.0

    def spread(share: float) -> float:
        sampler = samplers.ddpm(x, SCHEDULE, [t, s], torch.ones_like, learned_variance=True)
        next(sampler)
        with pytest.raises(StopIteration) as stop:
            sampler.send(Prediction(torch.zeros_like(x), variance=torch.full_like(x, share)))
        return float(stop.value.value)

    assert spread(-1.0) ** 2 == pytest.approx(SCHEDULE.posterior(t, s)[2])
    assert spread(1.0) ** 2 == pytest.approx(SCHEDULE.transition_beta(t, s))


@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_3m", "unipc", "ddim"])
def test_clips_and_frames_are_sampled_alike(name: str) -> None:
    """Latents are a pair of tensors: each modality is sampled as it would be alone."""
    video, audio = torch.randn(1, 2, 3, 4, 4, dtype=torch.float64), torch.randn(1, 1, 9, dtype=torch.float64)
    times = [*SCHEDULE.grid(6, "log_snr")[:-1], CLEAN]
    sampler = getattr(samplers, name)(Latents(video, audio), SCHEDULE, times)
    request = next(sampler)
    try:
        while True:
            request = sampler.send(Prediction(request.x.map(lambda v, t=request.t: TWO_MODES.eps(v, t))))
    except StopIteration as stop:
        together = stop.value
    for alone, value in ((video, together.video), (audio, together.audio)):
        result, _ = run(getattr(samplers, name)(alone, SCHEDULE, times), TWO_MODES.eps)
        assert torch.equal(result, value)


@pytest.mark.parametrize(("sampler", "most"), [(samplers.dpmpp_2m, 5), (samplers.dpmpp_3m, 6)])
def test_a_long_clip_takes_few_copies_of_itself_and_is_the_same_to_the_bit(
    monkeypatch: pytest.MonkeyPatch, sampler: Callable[..., Sampler], most: int
) -> None:
    """Computed at once, the updates would take 7 and 10."""
    x = torch.linspace(-2.5, 2.5, 10_001).view(1, 1, -1)

    def made() -> torch.Tensor:
        chain = sampler(Latents(None, x), SCHEDULE, SCHEDULE.times(8, "log_snr"))
        try:
            request = next(chain)
            while True:
                request = chain.send(Prediction(request.x))
        except StopIteration as stop:
            return stop.value.audio

    expected = made()
    monkeypatch.setattr(latents, "BLOCK", 1000)
    with _Live(x.numel()) as live:
        assert torch.equal(made(), expected)
    assert live.most <= most


class _Live(TorchDispatchMode):
    """Counts tensors of `size` elements that exist at once, and have memory of their own."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size
        self._known: dict[int, StorageWeakRef] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.numel() == self._size and out._base is None:
            self._known[out.data_ptr()] = StorageWeakRef(out.untyped_storage())
            self.most = max(self.most, sum(not each.expired() for each in self._known.values()))
        return out
