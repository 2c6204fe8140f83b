"""Conditioning methods on a pair of scalars with a known answer, and against their formulas.

The toy problem: g and c, each of standard deviation 0.5, correlation 0.9, an exact joint denoiser. Given c the target
g has slope 0.900 on c and residual standard deviation 0.218. Replacement alone keeps half of the coupling, and more
steps do not help; calibrated ΠGDM restores it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from model.sampling import guidance, samplers
from model.sampling.latents import Latents, clip, unchanged
from model.sampling.samplers import Evaluate, Prediction, Sampler
from model.sampling.schedule import CLEAN, NoiseSchedule, linear_betas
from tests.model.sampling.analytic import solve

SCHEDULE = NoiseSchedule(linear_betas(1000))
STD, CORRELATION, PAIRS = 0.5, 0.9, 20_000
COVARIANCE = STD**2 * torch.tensor([[1.0, CORRELATION], [CORRELATION, 1.0]], dtype=torch.float64)
SAMPLERS = {name: getattr(samplers, name) for name in ("dpmpp_2m", "dpmpp_3m", "unipc", "ddim")}


def joint_eps(g: Tensor, c: Tensor, t_g: float, t_c: float) -> tuple[Tensor, Tensor]:
    """E[ε | x_t] of the pair; the two may have different times."""
    alpha = torch.tensor([SCHEDULE.alpha(t_g), SCHEDULE.alpha(t_c)], dtype=torch.float64)
    sigma = torch.tensor([SCHEDULE.sigma(t_g), SCHEDULE.sigma(t_c)], dtype=torch.float64)
    covariance = alpha[:, None] * COVARIANCE * alpha + torch.diag(sigma**2)
    eps = torch.stack([g, c], -1) @ torch.linalg.inv(covariance) * sigma
    return eps[..., 0], eps[..., 1]


def answer(request: Evaluate) -> Prediction:
    """The exact prediction: video is the target g, audio the condition c."""
    times = [request.t if own is None else own for own in (request.t_video, request.t_audio)]
    g = request.x["video"]
    if request.objective is None:
        return Prediction(Latents(*joint_eps(g, request.x["audio"], *times)))
    assert request.wrt == ("video",)
    g = g.detach().requires_grad_(True)
    eps = Latents(*joint_eps(g, request.x["audio"], *times))
    (gradient,) = torch.autograd.grad(request.objective(eps), g)
    return Prediction(eps.map(Tensor.detach), gradient=Latents(gradient, None))


def error_variance(t: float) -> float:
    """r_t² of the pair in closed form: the posterior variance of c given both noisy values."""
    alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    noisy = alpha**2 * COVARIANCE + sigma**2 * torch.eye(2, dtype=torch.float64)
    return float((COVARIANCE - alpha**2 * COVARIANCE @ torch.linalg.inv(noisy) @ COVARIANCE)[1, 1])


def fit(
    method: Callable[[Sampler, guidance.Condition], Sampler],
    sampler: str = "dpmpp_2m",
    spacing: str = "log_snr",
    steps: int = 20,
) -> tuple[float, float]:
    """Slope of the sampled g on c, and the standard deviation of the residual."""
    generator = torch.Generator().manual_seed(11)
    y, n, start = torch.randn(3, PAIRS, 1, generator=generator, dtype=torch.float64)
    condition = guidance.Condition("audio", STD * y, n)
    target = SAMPLERS[sampler](Latents(start, None), SCHEDULE, SCHEDULE.times(steps, spacing))
    g, c = solve(method(target, condition), answer)["video"].flatten(), condition.clean.flatten()
    slope = float((g * c).mean() / (c * c).mean())
    return slope, float((g - slope * c).std())


def replacement(sampler: Sampler, condition: guidance.Condition) -> Sampler:
    return guidance.replacement(sampler, SCHEDULE, condition, unchanged)


def pigdm(sampler: Sampler, condition: guidance.Condition) -> Sampler:
    return guidance.pigdm(sampler, SCHEDULE, condition, unchanged, error_variance)


def clean(sampler: Sampler, condition: guidance.Condition) -> Sampler:
    return guidance.clean(sampler, SCHEDULE, condition, unchanged)


SLOPE, RESIDUAL = CORRELATION, STD * math.sqrt(1 - CORRELATION**2)


def pigdm_with(variance: Callable[[float], float]) -> Callable[[Sampler, guidance.Condition], Sampler]:
    return lambda sampler, condition: guidance.pigdm(sampler, SCHEDULE, condition, unchanged, variance)


def prior(std: float) -> Callable[[float], float]:
    """r_t² of one independent Gaussian of standard deviation `std`: the assumption without calibration."""

    def variance(t: float) -> float:
        signal, noise = (SCHEDULE.alpha(t) * std) ** 2, SCHEDULE.sigma(t) ** 2
        return std**2 * noise / (signal + noise)

    return variance


def reconstruction(t: float) -> float:
    """With this in place of r_t², ΠGDM is reconstruction guidance of weight 2 (Ho et al., Video Diffusion Models)."""
    return SCHEDULE.sigma(t) ** 2 / (2 * SCHEDULE.alpha(t) ** 2)


METHODS = {
    "replacement": replacement,
    "reconstruction w = 2": pigdm_with(reconstruction),
    "ΠGDM, unit variance": pigdm_with(prior(1.0)),
    "ΠGDM, data variance": pigdm_with(prior(STD)),
    "calibrated ΠGDM": pigdm,
    "clean": clean,
}


def test_calibrated_pigdm_restores_the_coupling_that_replacement_loses() -> None:
    print(f"\nslope / residual; exact {SLOPE:.3f} / {RESIDUAL:.3f}")
    print("".join(f"{name:>22}" for name in ("spacing, steps", *METHODS)))
    for spacing, steps in (("log_snr", 10), ("log_snr", 20), ("log_snr", 50), ("uniform", 20)):
        row = [fit(method, spacing=spacing, steps=steps) for method in METHODS.values()]
        cells = [f"{slope:.3f} / {std:.3f}" for slope, std in row]
        print("".join(f"{cell:>22}" for cell in (f"{spacing}, {steps}", *cells)))
    slope, std = fit(pigdm)
    assert slope == pytest.approx(SLOPE, rel=0.02)
    assert std == pytest.approx(RESIDUAL, rel=0.05)
    lost, _ = fit(replacement)
    assert lost < 0.55


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_pigdm_works_inside_every_sampler(sampler: str) -> None:
    slope, _ = fit(pigdm, sampler=sampler)
    assert slope == pytest.approx(SLOPE, rel=0.02)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_clean_conditioning_is_exact(sampler: str) -> None:
    slope, std = fit(clean, sampler=sampler, steps=50)
    assert slope == pytest.approx(SLOPE, rel=0.02)
    assert std == pytest.approx(RESIDUAL, rel=0.10)


def test_gradient_guidance_moves_towards_the_condition() -> None:
    """With the ancestral sampler, as in the paper: a larger slope than replacement, smaller than the exact one."""

    def slope(scale: float) -> float:
        generator = torch.Generator().manual_seed(5)

        def noise(x: Latents) -> Latents:
            return x.map(lambda v: torch.randn(v.shape, generator=generator, dtype=torch.float64))

        y, n, start = (noise(Latents(torch.empty(4000, 1), None))["video"] for _ in range(3))
        condition = guidance.Condition("audio", STD * y, n)
        sampler = samplers.ddpm(Latents(start, None), SCHEDULE, SCHEDULE.times(250, "uniform"), noise)
        g = solve(guidance.gradient(sampler, SCHEDULE, condition, unchanged, scale), answer)["video"]
        return float((g * condition.clean).mean() / condition.clean.square().mean())

    slopes = [slope(scale) for scale in (0.0, 3.0, 10.0)]
    assert slopes == sorted(slopes)
    assert slopes[-1] - slopes[0] > 0.05
    assert slopes[-1] < SLOPE


@pytest.mark.parametrize("ancestral", [True, False])
def test_gradient_is_equation_12(ancestral: bool) -> None:
    """One step by hand: g_s − λ √(1 − ᾱ_s) ∇‖c_s − ĉ_s‖², with the sampler's own step for the condition."""
    t, s, scale = 600.0, 500.0, 0.7
    g, y, n = torch.randn(3, 5, 1, dtype=torch.float64)
    condition = guidance.Condition("audio", y, n)
    zero = lambda x: x.map(torch.zeros_like)  # noqa: E731
    if ancestral:
        sampler = samplers.ddpm(Latents(g, None), SCHEDULE, [t, s], zero)
        of_x0, of_xt, _ = SCHEDULE.posterior(t, s)
    else:
        sampler = samplers.dpmpp_2m(Latents(g, None), SCHEDULE, [t, s])
        of_xt = SCHEDULE.sigma(s) / SCHEDULE.sigma(t)
        of_x0 = SCHEDULE.alpha(s) - of_xt * SCHEDULE.alpha(t)
    result = solve(guidance.gradient(sampler, SCHEDULE, condition, unchanged, scale), answer)["video"]

    variable = g.clone().requires_grad_(True)
    c_t = condition.at(SCHEDULE, t)
    eps_g, eps_c = joint_eps(variable, c_t, t, t)
    c_s = of_x0 * SCHEDULE.to_x0(c_t, eps_c, t) + of_xt * c_t
    (gradient,) = torch.autograd.grad((c_s - condition.at(SCHEDULE, s)).square().sum(), variable)
    step = of_x0 * SCHEDULE.to_x0(g, eps_g.detach(), t) + of_xt * g
    assert torch.allclose(result, step - scale * SCHEDULE.sigma(s) * gradient)


def test_decoupling_extrapolates_from_the_uncoupled_prediction() -> None:
    asked: list[bool] = []

    def network(request: Evaluate) -> Prediction:
        asked.append(request.coupled)
        return Prediction(request.x.map(lambda v: torch.full_like(v, 3.0 if request.coupled else 1.0)))

    def probe() -> Sampler:
        prediction = yield Evaluate(Latents(torch.zeros(1, 1), torch.zeros(1, 1)), 500.0, 400.0)
        return prediction.eps

    chain = guidance.decoupling(probe(), 2.0)
    off = chain.send(network(next(chain)))
    with pytest.raises(StopIteration) as stop:
        chain.send(network(off))
    assert asked == [True, False]
    assert float(stop.value.value["video"]) == 3.0 + (3.0 - 1.0)


def test_the_condition_keeps_one_noise_for_the_whole_request() -> None:
    y, n = torch.randn(2, 1, 1, dtype=torch.float64)
    condition = guidance.Condition("audio", y, n)
    sampler = samplers.dpmpp_2m(Latents(torch.randn(1, 1, dtype=torch.float64), None), SCHEDULE, [900.0, 500.0, CLEAN])
    chain = guidance.replacement(sampler, SCHEDULE, condition, clip)
    request = next(chain)
    for t in (900.0, 500.0):
        expected = SCHEDULE.alpha(t) * y + SCHEDULE.sigma(t) * n
        assert torch.allclose(request.x["audio"], expected)
        if t == 900.0:
            request = chain.send(answer(request))
        else:
            with pytest.raises(StopIteration):
                chain.send(answer(request))


def test_limits_keep_x0_in_bounds() -> None:
    def probe() -> Sampler:
        prediction = yield Evaluate(Latents(torch.full((1, 1), 5.0), torch.full((1, 1), -0.1)), 300.0, 200.0)
        return prediction.eps

    chain = guidance.limited(probe(), SCHEDULE, clip)
    request = next(chain)
    with pytest.raises(StopIteration) as stop:
        chain.send(Prediction(request.x.map(torch.zeros_like)))
    x0 = SCHEDULE.to_x0(request.x, stop.value.value, 300.0)
    assert float(x0["video"]) == pytest.approx(1.0)
    assert -1.0 < float(x0["audio"]) < 0.0
