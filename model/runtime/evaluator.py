"""Evaluates the networks for samplers: groups requests, runs each group in batches, splits the results."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Generator, Hashable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from model.networks.config import MODALITIES, PredictionType
from model.networks.coupled_unet import CoupledUNet
from model.networks.pair import Pair
from model.networks.super_resolution import SRUNet
from model.runtime.batch_sizes import BatchSizes
from model.sampling.latents import Latents
from model.sampling.prediction import to_eps
from model.sampling.samplers import Evaluate, EvaluateAll, EvaluateFrames, Prediction
from model.sampling.schedule import NoiseSchedule

GRAPHS = 64
"""Compiled graphs of one network at most: batch sizes, with and without RS-MMA, with and without a gradient."""

_log = logging.getLogger(__name__)


Request = Evaluate | EvaluateFrames

Program = Generator[Request | EvaluateAll, Any, Any]
"""Yields requests, is sent the Prediction of a request or the list of those of an EvaluateAll, returns a result."""

UNBATCHED = 4
"""Windows in one forward where no batch sizes are set."""

GRADIENT_COST = 3.0
"""Cost of a forward with its backward, in forwards."""


class Evaluator:
    """The networks of one model on one device. Call it with any mix of requests; answers come in their order.

    Requests of the same kind for clips of the same shape share a forward, whatever their times. Requests with a
    gradient share one backward of the sum of their objectives, since samples do not depend on each other.

    `batch_sizes`: those of the base network, for requests of one clip; without them a group is one forward, whatever
    its size. `frames_per_forward` bounds the memory of super-resolution. A forward that runs out of memory is repeated
    at half the size, which becomes the new limit; a single clip or frame that does not fit raises.
    """

    def __init__(
        self,
        base: CoupledUNet | None,
        sr: SRUNet | None,
        schedule: NoiseSchedule,
        frames_per_forward: int = 16,
        batch_sizes: BatchSizes | None = None,
    ) -> None:
        self.base = base.eval().requires_grad_(False) if base is not None else None
        self.sr = sr.eval().requires_grad_(False) if sr is not None else None
        self.schedule = schedule
        self.frames_per_forward = frames_per_forward
        self.compiled = False
        self.halvings: Counter[str] = Counter()
        """Forwards that ran out of memory, by network."""
        self.use_batch_sizes(batch_sizes)

    @property
    def dtype(self) -> torch.dtype:
        """What the networks compute in."""
        network = self.base if self.base is not None else self.sr
        assert network is not None
        return network.dtype

    def use_batch_sizes(self, batch_sizes: BatchSizes | None) -> None:
        """Set the batch sizes. A backward takes several times the memory of a forward, so it has its own copy."""
        self.batch_sizes = batch_sizes
        self._gradient_sizes = BatchSizes(batch_sizes.sizes) if batch_sizes is not None else None

    def compile(self) -> None:
        """Compile both networks: one graph for each batch size, at its first forward (see `warmup`)."""
        self.compiled = True
        torch._dynamo.config.recompile_limit = GRAPHS
        for network in (self.base, self.sr):
            if network is not None:
                network.compile(dynamic=False)

    def __call__(self, requests: Sequence[Request]) -> list[Prediction]:
        groups: dict[Hashable, list[int]] = defaultdict(list)
        for position, request in enumerate(requests):
            groups[_group(request)].append(position)
        answers: dict[int, Prediction] = {}
        for positions in groups.values():
            members = [requests[position] for position in positions]
            answers.update(zip(positions, self._answer(members), strict=True))
        return [answers[position] for position in range(len(requests))]

    def cost(self, requests: Sequence[Request]) -> float:
        """Relative cost of answering these base network requests together, by the measured times of the batch sizes; by
        default a single clip costs 1."""
        groups = Counter(_group(request) for request in requests)
        gradients = {_group(request) for request in requests if isinstance(request, Evaluate) and request.wrt}
        plain = self.batch_sizes
        return sum(
            (plain.cost(count) if plain is not None else float(count)) * (GRADIENT_COST if group in gradients else 1.0)
            for group, count in groups.items()
        )

    def _answer(self, requests: Sequence[Any]) -> list[Prediction]:
        if isinstance(requests[0], EvaluateFrames):
            return self._super_resolution(requests)
        batch_sizes = self.batch_sizes if not requests[0].wrt else self._gradient_sizes
        if batch_sizes is None or any(request.x.batch != 1 for request in requests):
            return self._base(requests)
        answers: list[Prediction] = []
        while len(answers) < len(requests):
            size = batch_sizes.plan(len(requests) - len(answers))[0]
            batch = requests[len(answers) : len(answers) + size]
            padding = [batch[-1]] * (size - len(batch))
            try:
                answers += self._base([*batch, *padding])[: len(batch)]
                continue
            except Exception as error:
                if not (is_out_of_memory(error) and batch_sizes.halve(size)):
                    raise
            # Outside the except block: inside it the error still holds the memory of the forward.
            self.halvings["base"] += 1
            _log.warning("out of memory with %d clips: at most %d from now on", size, batch_sizes.largest)
            torch.cuda.empty_cache()
        return answers

    def _base(self, requests: Sequence[Evaluate]) -> list[Prediction]:
        sizes = [request.x.batch for request in requests]
        x = Latents(*(_cat([getattr(request.x, name) for request in requests]) for name in MODALITIES))
        shifts = _cat([request.shifts for request in requests])
        wrt = requests[0].wrt
        if not wrt:
            with torch.inference_mode():
                return [Prediction(eps) for eps in self._forward(x, requests, shifts).split(sizes)]
        with torch.enable_grad():
            variables = {name: x[name].detach().requires_grad_(True) for name in wrt}
            for name, variable in variables.items():
                x = x.replace(name, variable)
            parts = self._forward(x, requests, shifts).split(sizes)
            objectives = [r.objective(eps) for r, eps in zip(requests, parts, strict=True) if r.objective is not None]
            gradients = torch.autograd.grad(torch.stack(objectives).sum(), list(variables.values()))
        gradient = Latents(*(dict(zip(wrt, gradients, strict=True)).get(name) for name in MODALITIES))
        return [
            Prediction(eps.map(Tensor.detach), gradient=share)
            for eps, share in zip(parts, gradient.split(sizes), strict=True)
        ]

    def _forward(self, x: Latents, requests: Sequence[Evaluate], shifts: Tensor | None) -> Latents:
        assert self.base is not None
        clips = Pair(x.video, x.audio)
        times = [_times(requests, name) for name in MODALITIES]
        t = clips.map(lambda clip, at: self._model_times(at, clip.device), times)
        predicted = self.base(clips, t, shifts, requests[0].coupled)
        return Latents(*predicted.map(partial(self._to_eps, self.base.config.prediction), clips, times))

    def _to_eps(self, prediction: PredictionType, predicted: Tensor, x: Tensor, times: Sequence[float]) -> Tensor:
        """ε̂ with α and σ of the requested times, not of the network's integer times: the sampler uses the former to
        get back from ε̂ to x̂_0, which must be the network's own."""
        if prediction == "eps":
            return predicted
        at = [max(t, 0.0) for t in times]
        alpha, sigma = (
            torch.tensor([of(t) for t in at], device=x.device).view(-1, *(1,) * (x.dim() - 1))
            for of in (self.schedule.alpha, self.schedule.sigma)
        )
        return to_eps(prediction, predicted, x, alpha, sigma)

    def _model_times(self, times: Sequence[float], device: torch.device) -> Tensor:
        return torch.tensor([self.schedule.model_time(t) for t in times], device=device)

    def _super_resolution(self, requests: Sequence[EvaluateFrames]) -> list[Prediction]:
        if self.sr is None:
            raise ValueError("this model has no super-resolution network")
        sizes = [request.x.shape[0] for request in requests]
        x = torch.cat([request.x for request in requests])
        low_res = torch.cat([request.low_res for request in requests])
        times = [request.t for request in requests for _ in request.x]
        parts: list[tuple[Tensor, Tensor | None]] = []
        done = 0
        while done < len(x):
            own = slice(done, done + self.frames_per_forward)
            frames = len(times[own])
            try:
                parts.append(self._frames(x[own], low_res[own], times[own]))
                done += frames
                continue
            except Exception as error:
                if not is_out_of_memory(error) or frames == 1:
                    raise
            self.frames_per_forward = frames // 2
            self.halvings["sr"] += 1
            _log.warning("out of memory with %d frames: at most %d from now on", frames, self.frames_per_forward)
            torch.cuda.empty_cache()
        with torch.inference_mode():
            eps = torch.cat([part[0] for part in parts])
            learned = [part[1] for part in parts if part[1] is not None]
            variance = torch.cat(learned) if learned else None
        shares = variance.split(sizes) if variance is not None else [None] * len(sizes)
        return [Prediction(part, variance=share) for part, share in zip(eps.split(sizes), shares, strict=True)]

    def _frames(self, x: Tensor, low_res: Tensor, times: list[float]) -> tuple[Tensor, Tensor | None]:
        """One forward. With a single batch size it is padded to it, so that clips are bit-identical in any batch."""
        assert self.sr is not None
        frames = len(x)
        if self.batch_sizes is not None and len(self.batch_sizes.sizes) == 1:
            missing = self.frames_per_forward - frames
            x, low_res = (torch.cat([value, value[-1:].repeat_interleave(missing, 0)]) for value in (x, low_res))
            times = times + times[-1:] * missing
        with torch.inference_mode():
            predicted, variance = self.sr(x, low_res, self._model_times(times, x.device))
            eps = self._to_eps(self.sr.config.prediction, predicted, x, times)
        return eps[:frames], variance[:frames] if variance is not None else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch might fit. Not all out-of-memory errors of PyTorch have their own class."""
    if isinstance(error, torch.AcceleratorError):
        return "out of memory" in str(error)
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def drive(program: Program, evaluator: Evaluator) -> Any:
    """Run one program alone and return its result."""
    try:
        request = next(program)
        while True:
            request = program.send(evaluate(request, evaluator))
    except StopIteration as stop:
        return stop.value


def evaluate(request: Request | EvaluateAll, evaluator: Evaluator) -> Prediction | list[Prediction]:
    """Evaluate what one program has requested."""
    if not isinstance(request, EvaluateAll):
        return evaluator([request])[0]
    at_once = evaluator.batch_sizes.largest if evaluator.batch_sizes is not None else UNBATCHED
    predictions: list[Prediction] = []
    while len(predictions) < len(request.requests):
        batch = evaluator(request.requests[len(predictions) : len(predictions) + at_once])
        predictions += batch
        request.on_batch(len(batch))
    return predictions


def _group(request: Request) -> Hashable:
    """A key: requests with equal keys share a forward."""
    if isinstance(request, EvaluateFrames):
        return "sr", request.x.shape[1:]
    shapes = tuple(value.shape[1:] if value is not None else None for value in (request.x.video, request.x.audio))
    return "base", shapes, request.coupled, request.wrt, request.shifts is None


def _times(requests: Sequence[Evaluate], modality: str) -> list[float]:
    """The time of every clip in one modality."""

    def of(request: Evaluate) -> float:
        own = request.t_video if modality == "video" else request.t_audio
        return request.t if own is None else own

    return [of(request) for request in requests for _ in range(request.x.batch)]


def _cat(values: Sequence[Tensor | None]) -> Tensor | None:
    """The values concatenated; `_group` ensures that all of a group have the value or none has."""
    present = [value for value in values if value is not None]
    return torch.cat(present) if present else None
