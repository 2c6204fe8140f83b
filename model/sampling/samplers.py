"""Samplers: from noise at times[0] to x at times[-1], one short generator function each.

A sampler yields `Evaluate(x, t)`, is sent the `Prediction` of the network there, and returns the final x. It works on
clips (`Latents`) and on batches of frames (`Tensor`) alike, and knows neither network nor conditioning: guidance
wraps it (`guidance.py`), and its driver evaluates the network. `times` descend from the noisiest; if the last one is
`CLEAN`, the last step returns x̂_0 itself. Symbols as in the papers: α, σ, λ = log(α/σ), h = λ_s − λ_t for a
step from t to s.

DPM-Solver: Lu et al., NeurIPS 2022. DPM-Solver++: Lu et al., 2022. UniPC: Zhao et al., NeurIPS 2023. DDIM: Song et al.,
ICLR 2021. DDPM: Ho et al., NeurIPS 2020; learned variances: Nichol and Dhariwal, ICML 2021.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
from torch import Tensor

from model.networks.text import TextTokens
from model.sampling.latents import Latents, State, in_blocks
from model.sampling.schedule import CLEAN, NoiseSchedule


@dataclass(frozen=True, slots=True)
class Prompt:
    """Captions of a request, one row for each clip: `text`, and for guidance `against`, what to keep away from, which
    may have no tokens. The prediction is ε̂(against) + scale · (ε̂(text) − ε̂(against)), from both in one batch."""

    text: TextTokens
    against: TextTokens | None = None
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Evaluate:
    """A request for the network's prediction at x_t, in the step from t to s.

    `ancestral`: the step draws from the posterior q(x_s | x_t, x̂_0) instead of following the ODE. Guidance sets the
    other fields: `t_video` and `t_audio` where they differ from t; `coupled` False to skip RS-MMA; and `objective`, a
    scalar function of the predicted noise to differentiate with respect to the modalities `wrt` of `x`. `shifts`
    (batch, blocks) are the RS-MMA window shifts. Without a `prompt` a network with text predicts without a caption.
    """

    x: State
    t: float
    s: float
    ancestral: bool = False
    t_video: float | None = None
    t_audio: float | None = None
    shifts: Tensor | None = None
    coupled: bool = True
    objective: Callable[[Latents], Tensor] | None = None
    wrt: tuple[str, ...] = ()
    prompt: Prompt | None = None


@dataclass(frozen=True, slots=True)
class EvaluateFrames:
    """A request to the super-resolution network: `x` and `low_res`, upsampled to its size, both (frames, 3, height,
    width)."""

    x: Tensor
    low_res: Tensor
    t: float


@dataclass(frozen=True, slots=True)
class EvaluateAll:
    """Requests that do not depend on each other, such as the windows of a long clip; the answer is a list of
    predictions in their order. A driver calls `on_batch` after each batch with its size."""

    requests: tuple[Evaluate, ...]
    on_batch: Callable[[int], None] = lambda size: None


@dataclass(frozen=True, slots=True)
class Prediction:
    """An answer: ε̂; the fraction of the log-variance range if the network learns it; the gradient if requested, in the
    modalities it was requested for."""

    eps: State
    variance: Tensor | None = None
    gradient: Latents | None = None


Sampler = Generator[Evaluate, Prediction, State]

Noise = Callable[[State], State]
"""Standard normal noise of the same shape, from the request's own random stream."""


def ask(request: Evaluate) -> Sampler:
    """A single request, as a sampler for guidance to wrap; returns its prediction."""
    return (yield request)


def ddim(
    x: State, schedule: NoiseSchedule, times: Sequence[float], eta: float = 0.0, noise: Noise | None = None
) -> Sampler:
    """DDIM, eq. 12 and 16. eta = 0 is deterministic; otherwise `noise` is needed."""
    for t, s in pairwise(times):
        eps = (yield Evaluate(x, t, s)).eps
        x0 = schedule.to_x0(x, eps, t)
        variance = eta**2 * schedule.posterior(t, s)[2]
        x = schedule.alpha(s) * x0 + math.sqrt(schedule.sigma(s) ** 2 - variance) * eps
        if variance > 0:
            x = x + math.sqrt(variance) * _draw(noise, x)
    return x


def ddpm(
    x: State, schedule: NoiseSchedule, times: Sequence[float], noise: Noise, learned_variance: bool = False
) -> Sampler:
    """Ancestral sampling with any respacing. The variance is β ("fixed large"), or, if learned, interpolated between β
    and the posterior's on a log scale (Nichol and Dhariwal, eq. 15). No noise is added on the last step."""
    for t, s in pairwise(times):
        prediction = yield Evaluate(x, t, s, ancestral=True)
        of_x0, of_xt, posterior_variance = schedule.posterior(t, s)
        x0 = schedule.to_x0(x, prediction.eps, t)
        x = of_x0 * x0 + of_xt * x
        if s == CLEAN:
            break
        beta = schedule.transition_beta(t, s)
        if learned_variance:
            assert prediction.variance is not None
            share = (prediction.variance + 1) / 2
            log_variance = share * math.log(beta) + (1 - share) * math.log(posterior_variance)
            x = x + (0.5 * log_variance).exp() * noise(x)
        else:
            x = x + math.sqrt(beta) * noise(x)
    return x


def dpm_solver(x: State, schedule: NoiseSchedule, times: Sequence[float], order: int = 3) -> Sampler:
    """DPM-Solver, singlestep, in ε̂: blocks of `order` evaluations, as the published scripts run it (DPM-Solver-1,
    -2, -3).

    Inner nodes are the times between a block's ends. `times` must end before CLEAN (λ is infinite there).
    """
    position = 0
    for k in singlestep_orders(len(times) - 1, order):
        t, *inner, s = times[position : position + k + 1]
        position += k
        lam_t, h = schedule.log_snr(t), schedule.log_snr(s) - schedule.log_snr(t)
        r = [(schedule.log_snr(node) - lam_t) / h for node in inner]
        eps = (yield Evaluate(x, t, inner[0] if inner else s)).eps
        at_s = _first_order_eps(schedule, x, eps, t, s)
        if k == 1:
            x = at_s
            continue
        x1 = _first_order_eps(schedule, x, eps, t, inner[0])
        eps1 = (yield Evaluate(x1, inner[0], inner[1] if k == 3 else s)).eps
        if k == 2:
            x = at_s - schedule.sigma(s) * math.expm1(h) / (2 * r[0]) * (eps1 - eps)
            continue
        x2 = _first_order_eps(schedule, x, eps, t, inner[1]) - (
            schedule.sigma(inner[1]) * r[1] / r[0] * (math.expm1(r[1] * h) / (r[1] * h) - 1) * (eps1 - eps)
        )
        eps2 = (yield Evaluate(x2, inner[1], s)).eps
        x = at_s - schedule.sigma(s) / r[1] * (math.expm1(h) / h - 1) * (eps2 - eps)
    return x


def singlestep_orders(steps: int, order: int) -> list[int]:
    """Orders of the blocks for `steps` evaluations in total; the last ones are lower if `order` does not divide it."""
    if order == 1:
        return [1] * steps
    if order == 2:
        return [2] * (steps // 2) + [1] * (steps % 2)
    if steps % 3 == 0:
        return [3] * (steps // 3 - 1) + [2, 1]
    return [3] * (steps // 3) + [steps % 3]


def dpm_multistep(
    x: State, schedule: NoiseSchedule, times: Sequence[float], order: int = 2, published: bool = False
) -> Sampler:
    """DPM-Solver, multistep, in ε̂, of order 1 to 3; the first steps are of lower order. `published`: see
    `dpmpp_3m`."""
    history: deque[tuple[float, State]] = deque(maxlen=order)
    for t, s in pairwise(times):
        eps = (yield Evaluate(x, t, s)).eps
        history.appendleft((schedule.log_snr(t), eps))
        h = schedule.log_snr(s) - schedule.log_snr(t)
        x = higher_order(_first_order_eps(schedule, x, eps, t, s), schedule.sigma(s), h, history, published)
    return x


def dpmpp_2m(x: State, schedule: NoiseSchedule, times: Sequence[float]) -> Sampler:
    """DPM-Solver++(2M): second order, one evaluation a step, in x̂_0."""
    return _dpmpp_multistep(x, schedule, times, 2)


def dpmpp_3m(x: State, schedule: NoiseSchedule, times: Sequence[float], published: bool = False) -> Sampler:
    """DPM-Solver++(3M): third order, one evaluation a step, in x̂_0.

    The public code gives the curvature term half its weight: it takes the second divided difference, which is half the
    second derivative, for the derivative itself. That leaves a method of second order; `published` reproduces it.
    """
    return _dpmpp_multistep(x, schedule, times, 3, published)


def _dpmpp_multistep(
    x: State, schedule: NoiseSchedule, times: Sequence[float], order: int, published: bool = False
) -> Sampler:
    log_snrs: deque[float] = deque(maxlen=order)
    history: deque[State] = deque()
    for t, s in pairwise(times):
        x0 = in_blocks(partial(schedule.to_x0, t=t), x, (yield Evaluate(x, t, s)).eps)
        if s == CLEAN:
            return x0
        log_snrs.appendleft(schedule.log_snr(t))
        history.appendleft(x0)
        x = in_blocks(partial(_dpmpp_step, schedule, t, s, tuple(log_snrs), published), x, *history)
        if len(history) == order:
            history.pop()
    return x


def _dpmpp_step(
    schedule: NoiseSchedule, t: float, s: float, log_snrs: Sequence[float], published: bool, x: State, *x0: State
) -> State:
    """From x_t to x_s; `x0` and `log_snrs` are those of the latest evaluations, newest first."""
    h = schedule.log_snr(s) - schedule.log_snr(t)
    alpha, phi_1 = schedule.alpha(s), math.expm1(-h)
    x = schedule.sigma(s) / schedule.sigma(t) * x - alpha * phi_1 * x0[0]
    return higher_order(x, alpha, -h, deque(zip(log_snrs, x0, strict=True)), published)


def higher_order(
    x: State, scale: float, g: float, history: deque[tuple[float, State]], published: bool = False
) -> State:
    """Add the second- and third-order terms that `history` allows to a first-order multistep update.

    In ε̂ `scale` is σ_s and g = h; in x̂_0 it is α_s and g = −h.
    """
    phi_1 = math.expm1(g)
    if len(history) == 2:
        (slope,) = _differences(history, abs(g))
        x = x - 0.5 * scale * phi_1 * slope
    elif len(history) == 3:
        slope, curvature = _differences(history, abs(g))
        weight = 1 if published else 2
        x = x - scale * (phi_1 / g - 1) * slope - weight * scale * ((phi_1 - g) / g**2 - 0.5) * curvature
    return x


def unipc(x: State, schedule: NoiseSchedule, times: Sequence[float], order: int = 3) -> Sampler:
    """UniPC-`order`, multistep, in x̂_0, with B(h) = e^h − 1: a predictor, and a corrector that costs no evaluation
    of its own.

    Algorithms 5 and 7: the corrector uses the prediction that the next predictor needs anyway.
    """
    history: deque[tuple[float, State]] = deque(maxlen=order)
    pending: tuple[State, float] | None = None
    for t, s in pairwise(times):
        predicted = schedule.to_x0(x, (yield Evaluate(x, t, s)).eps, t)
        if s == CLEAN:
            return predicted
        if pending is not None:
            x = _unipc_update(schedule, *pending, t, history, corrector=predicted)
        history.appendleft((schedule.log_snr(t), predicted))
        pending = x, t
        x = _unipc_update(schedule, x, t, s, history)
    return x


def _unipc_update(
    schedule: NoiseSchedule,
    x: State,
    t: float,
    s: float,
    history: deque[tuple[float, State]],
    corrector: State | None = None,
) -> State:
    """From x_t to x_s: with `corrector`, the prediction x̂_0 at s itself, UniC; without, UniP (eq. 3 and 8)."""
    (lam_t, x0), *older = history
    h = schedule.log_snr(s) - lam_t
    nodes = [((lam - lam_t) / h, value - x0) for lam, value in older]
    if corrector is not None:
        nodes.append((1.0, corrector - x0))
    b_h = math.expm1(-h)
    x = schedule.sigma(s) / schedule.sigma(t) * x - schedule.alpha(s) * b_h * x0
    if not nodes:
        return x
    phi, targets = b_h / -h - 1, []
    for k in range(1, len(nodes) + 1):
        targets.append(phi * math.factorial(k) / b_h)
        phi = phi / -h - 1 / math.factorial(k + 1)
    r = np.array([node for node, _ in nodes])
    # With a single node the paper takes its limit 1/2, which keeps the order and needs no r.
    weights = [0.5] if len(nodes) == 1 else np.linalg.solve(np.vander(r, increasing=True).T, targets)
    for weight, (node, difference) in zip(weights, nodes, strict=True):
        x = x - schedule.alpha(s) * b_h * float(weight) / node * difference
    return x


def _first_order_eps(schedule: NoiseSchedule, x: State, eps: State, t: float, s: float) -> State:
    """DPM-Solver-1 from t to s (eq. 3.7), the same as DDIM."""
    h = schedule.log_snr(s) - schedule.log_snr(t)
    return schedule.alpha(s) / schedule.alpha(t) * x - schedule.sigma(s) * math.expm1(h) * eps


def _differences(history: deque[tuple[float, State]], h: float) -> list[State]:
    """First, and with three values second, divided difference over λ at the newest value, in units of the step h."""
    (lam, value), (lam_1, value_1), *rest = history
    r_0 = (lam - lam_1) / h
    slope = (value - value_1) / r_0
    if not rest:
        return [slope]
    ((lam_2, value_2),) = rest
    r_1 = (lam_1 - lam_2) / h
    older = (value_1 - value_2) / r_1
    curvature = (slope - older) / (r_0 + r_1)
    return [slope + r_0 * curvature, curvature]


def _draw(noise: Noise | None, x: State) -> State:
    if noise is None:
        raise ValueError("a stochastic sampler (eta > 0) needs a noise function")
    return noise(x)
