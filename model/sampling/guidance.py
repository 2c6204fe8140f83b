"""Conditioning inside any sampler: audio for given video, or video for given audio.

The sampler integrates the target modality only. Guidance sits between it and the network: it adds the condition to
every request and corrects x̂_0 of the target before the sampler sees the answer. Every method works with every sampler,
and methods compose. x = (g, c): target and condition; y is the clean condition, n its noise, drawn once per request
because a multistep solver needs a smooth path.

Replacement and the gradient method: Ruan et al., CVPR 2023, eq. 10-12. ΠGDM: Song et al., ICLR 2023. Clean conditioning
needs a model trained with independent timesteps: Bao et al., UniDiffuser, ICML 2023.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import TypeVar

from torch import Tensor

from model.networks.text import TextTokens
from model.sampling.latents import Latents, State, clip
from model.sampling.samplers import Evaluate, Prediction, Prompt, Sampler
from model.sampling.schedule import CLEAN, NoiseSchedule

Limit = Callable[[Latents], Latents]
Objective = Callable[[Latents], Tensor]
"""Scalar whose gradient is taken, as a function of the predicted noise."""

Answer = Generator[Evaluate, Prediction, Prediction]

_Asked = TypeVar("_Asked")
_Sent = TypeVar("_Sent")

PUBLISHED_LOSS_SCALE = 2.0**20
"""The published code multiplies the guidance loss by this under fp16 and never divides it out again."""


@dataclass(frozen=True)
class Condition:
    """The given modality: `clean` in [-1, 1] and the fixed `noise`, both shaped as that modality of the latents."""

    modality: str
    clean: Tensor
    noise: Tensor

    @property
    def target(self) -> str:
        return "audio" if self.modality == "video" else "video"

    def at(self, schedule: NoiseSchedule, t: float) -> Tensor:
        """α_t y + σ_t n."""
        return schedule.alpha(t) * self.clean + schedule.sigma(t) * self.noise


def respond(
    sampler: Sampler, answer: Callable[[Evaluate], Generator[_Asked, _Sent, Prediction]]
) -> Generator[_Asked, _Sent, State]:
    """Answer every request of `sampler` through `answer`, which may itself request any number of evaluations."""
    try:
        request = next(sampler)
        while True:
            prediction = yield from answer(request)
            del request  # its state, which may be that of a long clip, is of no use to the sampler's next one
            request = sampler.send(prediction)
    except StopIteration as stop:
        return stop.value


def limited(sampler: Sampler, schedule: NoiseSchedule, limit: Limit) -> Sampler:
    """x̂_0 kept in bounds, ε̂ following it."""

    def answer(request: Evaluate) -> Answer:
        prediction = yield request
        x0 = limit(schedule.to_x0(request.x, prediction.eps, request.t))
        return replace(prediction, eps=schedule.to_eps(request.x, x0, request.t))

    return respond(sampler, answer)


def replacement(sampler: Sampler, schedule: NoiseSchedule, condition: Condition, limit: Limit) -> Sampler:
    """The condition enters as α_t y + σ_t n at every step, without a correction (the paper's baseline, eq. 10)."""

    def answer(request: Evaluate) -> Answer:
        prediction = yield _joined(request, condition, condition.at(schedule, request.t))
        return _target_answer(schedule, request, limit(_target_x0(schedule, request, prediction, condition)))

    return respond(sampler, answer)


def clean(sampler: Sampler, schedule: NoiseSchedule, condition: Condition, limit: Limit) -> Sampler:
    """c = y at t_c = 0: exact, one forward a step, for models trained with independent timesteps."""

    def answer(request: Evaluate) -> Answer:
        joined = _joined(request, condition, condition.clean)
        prediction = yield (
            replace(joined, t_video=0.0) if condition.modality == "video" else replace(joined, t_audio=0.0)
        )
        return _target_answer(schedule, request, limit(_target_x0(schedule, request, prediction, condition)))

    return respond(sampler, answer)


def gradient(sampler: Sampler, schedule: NoiseSchedule, condition: Condition, limit: Limit, scale: float) -> Sampler:
    """Gradient guidance as in the paper, eq. 11-12: g_s ← g_s − λ √(1 − ᾱ_s) ∇_{g_t} ‖c_s − ĉ_s‖².

    c_s is the mean of the sampler's own step for the condition, ĉ_s = α_s y + σ_s n, the square a sum over elements
    and the gradient taken through the network. What is subtracted from g_s is subtracted from x̂_0 with the weight
    that x̂_0 has in the step, which for an ancestral sampler is the same thing, and for a multistep one the only way
    that keeps its order.
    """

    def terms(request: Evaluate, c_t: Tensor, c_s: Tensor) -> tuple[Objective, float]:
        of_x0, of_xt = _step_weights(schedule, request)

        def squared_distance(eps: Latents) -> Tensor:
            x0 = limit(
                Latents(None, None).replace(condition.modality, _x0(schedule, c_t, eps, condition.modality, request.t))
            )
            return (of_x0 * x0[condition.modality] + of_xt * c_t - c_s).square().sum()

        return squared_distance, scale * schedule.sigma(request.s) / of_x0

    return _against_gradient(sampler, schedule, condition, limit, terms)


def gradient_code(
    sampler: Sampler,
    schedule: NoiseSchedule,
    condition: Condition,
    scale: float,
    step_noise: Callable[[Tensor], Tensor],
    loss_scale: float = PUBLISHED_LOSS_SCALE,
) -> Sampler:
    """Gradient guidance as in the published code, faults included, for the ancestral sampler with x̂_0 clipped.

    It differs from the paper by a sampled c_s (with `step_noise`) instead of its mean, the mean of squares over
    elements and batch instead of the sum, √ᾱ_t instead of √(1 − ᾱ_s), and the loss scale left in.
    """

    def terms(request: Evaluate, c_t: Tensor, c_s: Tensor) -> tuple[Objective, float]:
        of_x0, of_xt, _ = schedule.posterior(request.t, request.s)
        last = request.s == CLEAN
        noise = 0.0 if last else math.sqrt(schedule.transition_beta(request.t, request.s)) * step_noise(c_t)

        def scaled_mean_square(eps: Latents) -> Tensor:
            x0 = clip(_x0(schedule, c_t, eps, condition.modality, request.t))
            return loss_scale * (of_x0 * x0 + of_xt * c_t + noise - c_s).square().mean()

        return scaled_mean_square, 0.0 if last else scale * schedule.alpha(request.t) / of_x0

    return _against_gradient(sampler, schedule, condition, clip, terms)


def pigdm(
    sampler: Sampler,
    schedule: NoiseSchedule,
    condition: Condition,
    limit: Limit,
    error_variance: Callable[[float], float],
    scale: float = 1.0,
) -> Sampler:
    """Replacement plus calibrated ΠGDM: x̂_g += (σ²/α) ∇_{g_t} ⟨x̂_c, stopgrad[(y − x̂_c) / r_t²]⟩.

    `error_variance(t)` is r_t² = E‖y − x̂_c‖² per element, measured on validation data. With it 10 to 20 steps
    restore the coupling that replacement alone loses in an ODE solver.
    """

    def answer(request: Evaluate) -> Answer:
        t = request.t
        c_t = condition.at(schedule, t)

        def agreement(eps: Latents) -> Tensor:
            x0 = _x0(schedule, c_t, eps, condition.modality, t)
            bounded = limit(Latents(None, None).replace(condition.modality, x0.detach()))[condition.modality]
            return (x0 * (condition.clean - bounded) / error_variance(t)).sum()

        prediction = yield replace(_joined(request, condition, c_t), objective=agreement, wrt=(condition.target,))
        push = scale * schedule.sigma(t) ** 2 / schedule.alpha(t) * _gradient_of(prediction, condition.target)
        x0 = _target_x0(schedule, request, prediction, condition).map(lambda value: value + push)
        return _target_answer(schedule, request, limit(x0))

    return respond(sampler, answer)


def decoupling(sampler: Sampler, scale: float) -> Sampler:
    """ε̃ = ε_on + (scale − 1)(ε_on − ε_off), ε_off from a forward that skips RS-MMA: two forwards, no backward.

    Strengthens the coupling, in joint sampling too; wrap `replacement` in it to condition.
    """

    def answer(request: Evaluate) -> Answer:
        on = yield request
        off = yield replace(request, coupled=False)
        return replace(on, eps=on.eps + (scale - 1.0) * (on.eps - off.eps))

    return respond(sampler, answer)


def prompted(sampler: Sampler, prompt: Prompt, until: float = CLEAN) -> Sampler:
    """Classifier-free guidance (Ho and Salimans, 2022): give every request the captions of `prompt`, of one row.

    The two predictions are made in one batch and combined before anything else sees them, so a gradient runs through
    both, and every other guidance works on the combination. At times below `until` only the caption to follow is left:
    with little noise guidance hardly changes the clip (Kynkäänniemi et al., Applying guidance in a limited interval
    improves sample and distribution quality in diffusion models, 2024).
    """

    def rows(text: TextTokens, batch: int) -> TextTokens:
        return TextTokens(text.tokens.expand(batch, -1, -1), text.mask.expand(batch, -1))

    def answer(request: Evaluate) -> Answer:
        text, against = rows(prompt.text, request.x.batch), prompt.against
        if against is None or request.t < until:
            return (yield replace(request, prompt=Prompt(text)))
        negative = rows(against, request.x.batch)
        return (yield replace(request, prompt=Prompt(text, negative, prompt.scale)))

    return respond(sampler, answer)


def with_shifts(sampler: Sampler, draw: Callable[[int], Tensor]) -> Sampler:
    """Give every request its RS-MMA shifts, `draw(batch)` (batch, blocks), from the request's own random stream."""

    def answer(request: Evaluate) -> Answer:
        return (yield replace(request, shifts=draw(request.x.batch)))

    return respond(sampler, answer)


def _against_gradient(
    sampler: Sampler,
    schedule: NoiseSchedule,
    condition: Condition,
    limit: Limit,
    terms: Callable[[Evaluate, Tensor, Tensor], tuple[Objective, float]],
) -> Sampler:
    """x̂_0 of the target in bounds, minus a weight times the gradient of an objective: `terms`(request, c_t, c_s)."""

    def answer(request: Evaluate) -> Answer:
        c_t, c_s = condition.at(schedule, request.t), condition.at(schedule, request.s)
        objective, weight = terms(request, c_t, c_s)
        prediction = yield replace(_joined(request, condition, c_t), objective=objective, wrt=(condition.target,))
        x0 = limit(_target_x0(schedule, request, prediction, condition))
        shift = weight * _gradient_of(prediction, condition.target) if weight else 0.0
        return _target_answer(schedule, request, x0.map(lambda value: value - shift))

    return respond(sampler, answer)


def _joined(request: Evaluate, condition: Condition, value: Tensor) -> Evaluate:
    return replace(request, x=request.x.replace(condition.modality, value))


def _x0(schedule: NoiseSchedule, x: Tensor, eps: Latents, modality: str, t: float) -> Tensor:
    return schedule.to_x0(x, eps[modality], t)


def _target_x0(schedule: NoiseSchedule, request: Evaluate, prediction: Prediction, condition: Condition) -> Latents:
    x0 = _x0(schedule, request.x[condition.target], prediction.eps, condition.target, request.t)
    return Latents(None, None).replace(condition.target, x0)


def _target_answer(schedule: NoiseSchedule, request: Evaluate, x0: Latents) -> Prediction:
    return Prediction(eps=schedule.to_eps(request.x, x0, request.t))


def _step_weights(schedule: NoiseSchedule, request: Evaluate) -> tuple[float, float]:
    """Weights of x̂_0 and of x_t in the mean of the sampler's step: of the posterior, or of the first-order ODE
    step."""
    t, s = request.t, request.s
    if request.ancestral:
        of_x0, of_xt, _ = schedule.posterior(t, s)
        return of_x0, of_xt
    of_xt = schedule.sigma(s) / schedule.sigma(t)
    return schedule.alpha(s) - of_xt * schedule.alpha(t), of_xt


def _gradient_of(prediction: Prediction, modality: str) -> Tensor:
    assert prediction.gradient is not None, "the driver must answer a request with an objective with its gradient"
    return prediction.gradient[modality]
