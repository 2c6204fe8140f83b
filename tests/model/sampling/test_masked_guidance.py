"""Conditioning on parts of a clip, on a triple of scalars with a known answer.

The toy problem: g, c_1 and c_2, each of standard deviation 0.5, an exact joint denoiser. g and c_1 are the video, c_2
is the audio. Given both c, the target g has closed-form slopes on them and a closed-form residual.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from model.sampling import samplers
from model.sampling.latents import Latents, clip, unchanged
from model.sampling.masked_guidance import Known, masked
from model.sampling.samplers import Evaluate, Prediction, Sampler
from model.sampling.schedule import NoiseSchedule, linear_betas
from tests.model.sampling.analytic import solve

SCHEDULE = NoiseSchedule(linear_betas(1000))
STD, TRIPLES = 0.5, 20_000
G_C1, G_C2, C1_C2 = 0.8, 0.8, 0.6
"""Correlations. The network's errors of c_1 and c_2 are correlated, too: r_t² of each by itself would make both slopes
0.56 instead of 0.5."""
COVARIANCE = STD**2 * torch.tensor([[1, G_C1, G_C2], [G_C1, 1, C1_C2], [G_C2, C1_C2, 1]], dtype=torch.float64)
SLOPES = torch.linalg.solve(COVARIANCE[1:, 1:], COVARIANCE[0, 1:])
RESIDUAL = math.sqrt(COVARIANCE[0, 0] - SLOPES @ COVARIANCE[1:, 0])
SAMPLERS = {name: getattr(samplers, name) for name in ("dpmpp_2m", "dpmpp_3m", "unipc", "ddim")}


def levels(t_video: float, t_audio: float) -> tuple[Tensor, Tensor, Tensor]:
    """α and σ of the three, and the covariance of their noisy values."""
    times = (t_video, t_video, t_audio)
    alpha = torch.tensor([SCHEDULE.alpha(t) for t in times], dtype=torch.float64)
    sigma = torch.tensor([SCHEDULE.sigma(t) for t in times], dtype=torch.float64)
    return alpha, sigma, alpha[:, None] * COVARIANCE * alpha + torch.diag(sigma**2)


def answer(request: Evaluate) -> Prediction:
    """The exact prediction."""
    t_video, t_audio = (request.t if own is None else own for own in (request.t_video, request.t_audio))
    _, sigma, noisy = levels(t_video, t_audio)
    x = request.x.map(lambda value: value.detach().requires_grad_(True))
    eps = torch.cat([x["video"], x["audio"]], -1) @ torch.linalg.inv(noisy) * sigma
    predicted = Latents(eps[:, :2], eps[:, 2:])
    gradient = None
    if request.objective is not None:
        found = torch.autograd.grad(request.objective(predicted), [x[name] for name in request.wrt])
        gradient = Latents(*(dict(zip(request.wrt, found, strict=True)).get(name) for name in ("video", "audio")))
    return Prediction(predicted.map(Tensor.detach), gradient=gradient)


def fit(clean: bool, pulled: bool = True, sampler: str = "dpmpp_2m", steps: int = 20) -> tuple[Tensor, float]:
    """Slopes of the sampled g on c_1 and c_2, and the standard deviation of the residual."""

    def error(number: int, t: float) -> float:
        """r_t² in closed form: the posterior variance of one of the three."""
        alpha, _, noisy = levels(t, 0.0 if clean else t)
        seen = COVARIANCE * alpha
        return float((COVARIANCE - seen @ torch.linalg.inv(noisy) @ seen.T)[number, number])

    generator = torch.Generator().manual_seed(11)
    start, n = (torch.randn(TRIPLES, size, generator=generator, dtype=torch.float64) for size in (2, 3))
    c = torch.randn(TRIPLES, 2, generator=generator, dtype=torch.float64) @ torch.linalg.cholesky(COVARIANCE[1:, 1:]).T
    known = {
        "video": Known(torch.stack([torch.zeros(TRIPLES), c[:, 0]], 1), torch.tensor([True, False]), n[:, :2]),
        "audio": Known(c[:, 1:], torch.tensor([False]), n[:, 2:]),
    }
    variances = {"video": lambda t: error(1, t), "audio": lambda t: error(2, t)} if pulled else None
    x = SAMPLERS[sampler](Latents(start, None), SCHEDULE, SCHEDULE.times(steps, "log_snr"))
    made = solve(masked(x, SCHEDULE, known, unchanged, variances, clean=clean), answer)["video"]
    assert torch.allclose(made[:, 1], c[:, 0])
    slopes = torch.linalg.lstsq(c, made[:, :1]).solution[:, 0]
    return slopes, float((made[:, 0] - c @ slopes).std())


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("clean", [False, True], ids=["both at the noise level", "one clean"])
def test_what_is_made_follows_both_known_parts(clean: bool, sampler: str) -> None:
    slopes, residual = fit(clean, sampler=sampler, steps=50 if sampler == "ddim" else 20)
    print(f"\n{slopes.tolist()} / {residual:.3f}; exact {SLOPES.tolist()} / {RESIDUAL:.3f}")
    assert torch.allclose(slopes, SLOPES, rtol=0.03, atol=0)
    assert residual == pytest.approx(RESIDUAL, rel=0.10 if sampler == "ddim" else 0.05)


def test_replacement_alone_loses_half_of_what_a_noisy_part_says() -> None:
    noisy, _ = fit(clean=False, pulled=False)
    assert torch.all(noisy < 0.6 * SLOPES)
    one_clean, _ = fit(clean=True, pulled=False)
    assert one_clean[0] < 0.55 * SLOPES[0]
    assert one_clean[1] > SLOPES[1]


def asked(known: dict[str, Known], clean: bool = False) -> tuple[Evaluate | None, Latents]:
    """What is asked of the network for a state of ones at t = 500, and the x̂_0 that the sampler gets where the
    network's ε̂ is 0 and its gradient 1."""

    def probe() -> Sampler:
        present = {name for name, part in known.items() if not part.wholly} or {"audio"}
        state = Latents(*(torch.ones(1, 4) if name in present else None for name in ("video", "audio")))
        return SCHEDULE.to_x0(state, (yield Evaluate(state, 500.0, 400.0)).eps, 500.0)

    chain = masked(probe(), SCHEDULE, known, clip, dict.fromkeys(("video", "audio"), lambda t: 1.0), clean=clean)
    try:
        request = next(chain)
        zero = request.x.map(torch.zeros_like)
        chain.send(Prediction(zero, gradient=zero + 1.0 if request.objective is not None else None))
    except StopIteration as stop:
        return (request if "request" in locals() else None), stop.value
    raise AssertionError("one request, one answer")


def part(new: list[int], value: float = 0.25) -> Known:
    mask = torch.tensor([new], dtype=torch.bool)
    return Known(torch.full((1, 4), value), mask, torch.full((1, 4), 2.0))


def test_a_known_part_enters_at_its_noise_level_and_comes_out_as_it_is() -> None:
    request, x0 = asked({"video": part([1, 0, 0, 1]), "audio": part([0, 1, 0, 0], -0.5)})
    assert request is not None
    level = SCHEDULE.alpha(500.0) * 0.25 + SCHEDULE.sigma(500.0) * 2.0
    assert request.x["video"].tolist() == [pytest.approx([1.0, level, level, 1.0])]
    assert request.wrt == ("video", "audio")
    assert x0["video"][0].tolist() == pytest.approx([1.0, 0.25, 0.25, 1.0], abs=1e-5)
    assert x0["audio"][0].tolist() == pytest.approx([-0.5, 1.0, -0.5, -0.5], abs=1e-5)


def test_a_modality_that_is_known_entirely_may_enter_clean() -> None:
    known = {"video": part([0, 0, 0, 0]), "audio": part([0, 1, 1, 0])}
    request, _ = asked(known, clean=True)
    assert request is not None
    assert request.x["video"].tolist() == [[0.25] * 4]
    assert (request.t_video, request.t_audio, request.wrt) == (0.0, None, ("audio",))
    noisy, _ = asked(known)
    assert noisy is not None
    assert noisy.t_video is None
    assert noisy.x["video"][0, 0] > 1.0


def test_nothing_is_differentiated_where_nothing_noisy_is_known() -> None:
    request, _ = asked({"video": part([1, 1, 1, 1]), "audio": part([1, 1, 1, 1])})
    assert request is not None
    assert request.objective is None


def test_the_network_is_not_asked_where_all_is_known() -> None:
    request, x0 = asked({"video": part([0, 0, 0, 0]), "audio": part([0, 0, 0, 0], -0.5)})
    assert request is None
    assert x0["audio"][0].tolist() == pytest.approx([-0.5] * 4, abs=1e-5)
