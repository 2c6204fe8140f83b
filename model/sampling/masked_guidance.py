"""Conditioning on parts of a clip, inside any sampler: what is known is a measurement y = M x, the rest is made.

Any part of either modality may be known: frames, pixels, samples. The sampler's state is the whole clip. What is known
enters the network at the request's noise level, α_t y + σ_t n, and x̂_0 is y there. Calibrated ΠGDM pushes x̂_0 of the
rest to where the network's own guess of the known part agrees with y, as for a whole modality in `guidance.pigdm`. A
modality that is known entirely may enter clean instead, at time 0, if the model was trained for that.

For a Gaussian, x̂_g of the rest becomes x̂_g + C_gk C_kk⁻¹ (y − x̂_k), with C the covariance of the network's errors,
and ∂x̂_0/∂x_t = (α/σ²) C. ΠGDM takes r_t² I for C_kk, which counts an error that many known pixels share once for each
of them. Here C_kk⁻¹ is a step of steepest descent from there, in the inner product of 1/r_t²: with w = (y − x̂_k) / r_t²
the push is C_gk w times (w·C_kk w) / (C_kk w·C_kk w / r_t²). Both products are in the gradient of ⟨x̂_k, w⟩, so the
step costs no evaluation. With C_kk = r_t² I it is 1, and it is kept at most that.

Replacement at the noise level: Lugmayr et al., RePaint, CVPR 2022, without its resampling. ΠGDM: Song et al.,
ICLR 2023. The covariance from the Jacobian: Boys et al., Tweedie moment projected diffusions, 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from model.networks.config import MODALITIES
from model.sampling.guidance import Answer, Limit, respond
from model.sampling.latents import Latents
from model.sampling.samplers import Evaluate, Prediction, Sampler
from model.sampling.schedule import NoiseSchedule

ErrorVariances = Mapping[str, Callable[[float], float]]
"""r_t² = E‖x_0 − x̂_0‖² per element, by modality."""


@dataclass(frozen=True)
class Known:
    """What is known of one modality: the `clean` values in [-1, 1] where the boolean `new` is False, and their fixed
    `noise`. All have the shape of that modality of the latents, or broadcast to it; `clean` has any finite value where
    `new` is True."""

    clean: Tensor
    new: Tensor
    noise: Tensor

    @property
    def wholly(self) -> bool:
        """Everything is known."""
        return not bool(self.new.any())

    @property
    def unknown(self) -> bool:
        """Nothing is known."""
        return bool(self.new.all())

    def at(self, schedule: NoiseSchedule, t: float) -> Tensor:
        """α_t y + σ_t n."""
        return schedule.alpha(t) * self.clean + schedule.sigma(t) * self.noise

    def merged(self, made: Tensor) -> Tensor:
        """`made` where it is new, the known values elsewhere."""
        return torch.where(self.new, made, self.clean)


def masked(
    sampler: Sampler,
    schedule: NoiseSchedule,
    known: Mapping[str, Known],
    limit: Limit,
    error_variance: ErrorVariances | None = None,
    scale: float = 1.0,
    clean: bool = False,
) -> Sampler:
    """Condition `sampler` on what is `known`, by modality; a modality that `known` lacks is made from nothing.

    The sampler's state holds the modalities of which something is new; one that is known entirely may be absent from
    it. With `clean`, one that is known entirely enters at time 0. With `error_variance`, ΠGDM of strength `scale` acts
    for every other modality of which something is known. A clip that is known entirely is returned without asking the
    network.
    """
    whole = tuple(name for name, part in known.items() if part.wholly)
    at_zero = whole if clean else ()
    measured = [name for name, part in known.items() if name not in at_zero and not part.unknown]
    pushing = error_variance is not None and scale != 0 and bool(measured)

    def joined(x: Latents, t: float) -> Latents:
        for name, part in known.items():
            if name in at_zero:
                x = x.replace(name, part.clean)
            elif name in whole:
                x = x.replace(name, part.at(schedule, t))
            else:
                x = x.replace(name, torch.where(part.new, x[name], part.at(schedule, t)))
        return x

    def residuals(x: Latents, t: float, eps: Latents) -> dict[str, Tensor]:
        """w = (y − x̂_0) / r_t² where it is known and noisy, 0 elsewhere."""
        assert error_variance is not None
        weighted = {}
        for name in measured:
            x0 = limit(Latents(None, None).replace(name, schedule.to_x0(x[name], eps[name], t)))[name]
            known_error = torch.where(known[name].new, 0.0, known[name].clean - x0)
            weighted[name] = known_error / error_variance[name](t)
        return weighted

    def agreement(x: Latents, t: float, eps: Latents) -> Tensor:
        """⟨x̂_0, stopgrad(w)⟩."""
        weighted = residuals(x, t, eps.map(Tensor.detach))
        parts = [(schedule.to_x0(x[name], eps[name], t) * w).sum() for name, w in weighted.items()]
        return torch.stack(parts).sum()

    def step(x: Latents, t: float, prediction: Prediction) -> Tensor:
        """The length of the push for each clip, 0 … 1: (w·Cw) / (Cw·Cw / r_t²)."""
        assert error_variance is not None
        assert prediction.gradient is not None
        along = square = x.present[0].new_zeros(x.batch)
        for name, w in residuals(x, t, prediction.eps).items():
            # The objective holds x fixed where x̂_0 depends on it directly, which adds w / α.
            gradient = w / schedule.alpha(t) + prediction.gradient[name]
            covered = schedule.sigma(t) ** 2 / schedule.alpha(t) * torch.where(known[name].new, 0.0, gradient)
            along = along + (w * covered).flatten(1).sum(1)
            square = square + covered.square().flatten(1).sum(1) / error_variance[name](t)
        return (along / square.clamp(min=torch.finfo(square.dtype).tiny)).clamp(0, 1)

    def answer(request: Evaluate) -> Answer:
        t = request.t
        made = tuple(name for name in MODALITIES if getattr(request.x, name) is not None and name not in whole)
        x0 = Latents(None, None)
        if made:
            x = joined(request.x, t)
            asked = replace(
                request,
                x=x,
                t_video=0.0 if "video" in at_zero else request.t_video,
                t_audio=0.0 if "audio" in at_zero else request.t_audio,
            )
            if pushing:
                wrt = tuple(name for name in MODALITIES if name in made or name in measured)
                asked = replace(asked, objective=lambda eps: agreement(x, t, eps), wrt=wrt)
            prediction = yield asked
            for name in made:
                x0 = x0.replace(name, schedule.to_x0(x[name], prediction.eps[name], t))
            if pushing:
                assert prediction.gradient is not None
                weight = scale * schedule.sigma(t) ** 2 / schedule.alpha(t) * step(x, t, prediction)
                for name in made:
                    gradient = prediction.gradient[name]
                    x0 = x0.replace(name, x0[name] + weight.view(-1, *[1] * (gradient.ndim - 1)) * gradient)
            x0 = limit(x0)
        for name, part in known.items():
            if getattr(request.x, name) is not None:
                x0 = x0.replace(name, part.merged(x0[name]) if name in made else part.clean)
        return _prediction(schedule, request, x0)

    return respond(sampler, answer)


def _prediction(schedule: NoiseSchedule, request: Evaluate, x0: Latents) -> Prediction:
    """The prediction whose x̂_0 is `x0` in the modalities of the sampler's state."""
    return Prediction(eps=request.x.map(lambda x, value: schedule.to_eps(x, value, request.t), x0))
