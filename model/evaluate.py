"""Answers what samplers ask: gathers requests, runs each network once for as many as fit together, hands each its
share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.config import MODALITIES
from model.coupled_unet import CoupledUNet
from model.latents import Latents
from model.samplers import Evaluate, Prediction
from model.schedule import NoiseSchedule
from model.super_resolution import SRUNet


@dataclass(frozen=True, slots=True)
class EvaluateFrames:
    """A request to the super-resolution network: `x` and `low_res`, upsampled to its size, both (frames, 3, height,
    width)."""

    x: Tensor
    low_res: Tensor
    t: float


Request = Evaluate | EvaluateFrames


class Evaluator:
    """The networks of one model on one device. Calls it with requests of any mix; answers come in their order.

    Requests share a forward where they ask for the same thing of clips of the same shape, whatever their times. Those
    that want a gradient share one backward of the sum of their objectives: samples do not depend on each other.
    `frames_per_forward` bounds the memory that super-resolution takes.
    """

    def __init__(
        self, base: CoupledUNet | None, sr: SRUNet | None, schedule: NoiseSchedule, frames_per_forward: int = 16
    ) -> None:
        self.base = base.eval().requires_grad_(False) if base is not None else None
        self.sr = sr.eval().requires_grad_(False) if sr is not None else None
        self.schedule = schedule
        self.frames_per_forward = frames_per_forward

    def __call__(self, requests: Sequence[Request]) -> list[Prediction]:
        groups: dict[Hashable, list[int]] = defaultdict(list)
        for position, request in enumerate(requests):
            groups[_group(request)].append(position)
        answers: dict[int, Prediction] = {}
        for positions in groups.values():
            members = [requests[position] for position in positions]
            answers.update(zip(positions, self._answer(members), strict=True))
        return [answers[position] for position in range(len(requests))]

    def _answer(self, requests: Sequence[Any]) -> list[Prediction]:
        if isinstance(requests[0], EvaluateFrames):
            return self._super_resolution(requests)
        return self._base(requests)

    def _base(self, requests: Sequence[Evaluate]) -> list[Prediction]:
        sizes = [request.x.batch for request in requests]
        x = Latents(*(_cat([getattr(request.x, name) for request in requests]) for name in MODALITIES))
        shifts = _cat([request.shifts for request in requests])
        wrt = requests[0].wrt
        if wrt is None:
            with torch.inference_mode():
                return [Prediction(eps) for eps in self._forward(x, requests, shifts).split(sizes)]
        with torch.enable_grad():
            variable = x[wrt].detach().requires_grad_(True)
            parts = self._forward(x.replace(wrt, variable), requests, shifts).split(sizes)
            objectives = [r.objective(eps) for r, eps in zip(requests, parts, strict=True) if r.objective is not None]
            (gradient,) = torch.autograd.grad(torch.stack(objectives).sum(), variable)
        return [
            Prediction(eps.map(Tensor.detach), gradient=share)
            for eps, share in zip(parts, gradient.split(sizes), strict=True)
        ]

    def _forward(self, x: Latents, requests: Sequence[Evaluate], shifts: Tensor | None) -> Latents:
        t_video, t_audio = (
            None if value is None else self._times(requests, name, value.device)
            for name, value in (("video", x.video), ("audio", x.audio))
        )
        assert self.base is not None
        return Latents(*self.base(x.video, x.audio, t_video, t_audio, shifts, requests[0].coupled))

    def _times(self, requests: Sequence[Evaluate], modality: str, device: torch.device) -> Tensor:
        def of(request: Evaluate) -> float:
            own = request.t_video if modality == "video" else request.t_audio
            return request.t if own is None else own

        values = [self.schedule.model_time(of(request)) for request in requests for _ in range(request.x.batch)]
        return torch.tensor(values, device=device)

    def _super_resolution(self, requests: Sequence[EvaluateFrames]) -> list[Prediction]:
        if self.sr is None:
            raise ValueError("this model has no super-resolution network")
        sizes = [request.x.shape[0] for request in requests]
        x = torch.cat([request.x for request in requests])
        low_res = torch.cat([request.low_res for request in requests])
        values = [self.schedule.model_time(request.t) for request in requests for _ in request.x]
        times = torch.tensor(values, device=x.device)
        with torch.inference_mode():
            parts = [
                self.sr(*chunk)
                for chunk in zip(*(value.split(self.frames_per_forward) for value in (x, low_res, times)), strict=True)
            ]
            eps = torch.cat([part[0] for part in parts])
            variance = torch.cat([part[1] for part in parts]) if parts[0][1] is not None else None
        shares = variance.split(sizes) if variance is not None else [None] * len(sizes)
        return [Prediction(part, variance=share) for part, share in zip(eps.split(sizes), shares, strict=True)]


def drive(generator: Generator[Any, Any, Any], evaluator: Evaluator) -> Any:
    """Run one sampler alone, to its result."""
    try:
        request = next(generator)
        while True:
            request = generator.send(evaluator([request])[0])
    except StopIteration as stop:
        return stop.value


def _group(request: Request) -> Hashable:
    """Requests with equal keys can share a forward."""
    if isinstance(request, EvaluateFrames):
        return "sr", request.x.shape[1:]
    shapes = tuple(value.shape[1:] if value is not None else None for value in (request.x.video, request.x.audio))
    return "base", shapes, request.coupled, request.wrt, request.shifts is None


def _cat(values: Sequence[Tensor | None]) -> Tensor | None:
    """All of a group have the value or none has: `_group` sees to that."""
    present = [value for value in values if value is not None]
    return torch.cat(present) if present else None
