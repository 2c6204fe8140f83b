"""Conditioning on parts of a clip, inside any sampler: what is known is a measurement y = M x, the rest is made.

Any part of either modality may be known: frames, pixels, samples. The sampler's state is the whole clip. What is known
enters the network at the request's noise level, α_t y + σ_t n, and x̂_0 is y there. Calibrated ΠGDM pushes x̂_0 of the
rest to where the network's own guess of the known part agrees with y, as for a whole modality in `guidance.pigdm`. A
modality that is known entirely may enter clean instead, at time 0, if the model was trained for that.

Replacement at the noise level: Lugmayr et al., RePaint, CVPR 2022, without its resampling. ΠGDM: Song et al.,
ICLR 2023.
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

    def agreement(x: Latents, t: float, eps: Latents) -> Tensor:
        """Σ ⟨x̂_0, stopgrad[(y − x̂_0) / r_t²]⟩ over what is known and noisy."""
        assert error_variance is not None
        total = x.present[0].new_zeros(())
        for name in measured:
            part = known[name]
            x0 = schedule.to_x0(x[name], eps[name], t)
            bounded = limit(Latents(None, None).replace(name, x0.detach()))[name]
            missing = torch.where(part.new, 0.0, part.clean - bounded)
            total = total + (x0 * missing).sum() / error_variance[name](t)
        return total

    def answer(request: Evaluate) -> Answer:
        t = request.t
        x = joined(request.x, t)
        made = tuple(name for name in MODALITIES if getattr(request.x, name) is not None and name not in whole)
        asked = replace(
            request,
            x=x,
            t_video=0.0 if "video" in at_zero else request.t_video,
            t_audio=0.0 if "audio" in at_zero else request.t_audio,
        )
        if not made:
            x0 = Latents(*(known[name].clean if name in whole else None for name in MODALITIES))
            return _prediction(schedule, request, x0)
        if pushing:
            prediction = yield replace(asked, objective=lambda eps: agreement(x, t, eps), wrt=made)
        else:
            prediction = yield asked
        x0 = Latents(None, None)
        for name in made:
            value = schedule.to_x0(x[name], prediction.eps[name], t)
            if pushing:
                assert prediction.gradient is not None
                value = value + scale * schedule.sigma(t) ** 2 / schedule.alpha(t) * prediction.gradient[name]
            x0 = x0.replace(name, value)
        x0 = limit(x0)
        for name, part in known.items():
            if getattr(request.x, name) is not None:
                x0 = x0.replace(name, part.merged(x0[name]) if name in made else part.clean)
        return _prediction(schedule, request, x0)

    return respond(sampler, answer)


def _prediction(schedule: NoiseSchedule, request: Evaluate, x0: Latents) -> Prediction:
    """The prediction whose x̂_0 is `x0` in the modalities of the sampler's state."""
    return Prediction(eps=request.x.map(lambda x, value: schedule.to_eps(x, value, request.t), x0))
