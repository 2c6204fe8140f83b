"""Evaluates the networks for samplers: groups requests, runs each group in batches, splits the results."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Generator, Hashable, Sequence
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor

from model.networks.config import MODALITIES, PredictionType
from model.networks.coupled_unet import CoupledUNet
from model.networks.pair import Pair
from model.networks.super_resolution import SRUNet
from model.networks.text import TextTokens
from model.runtime import prompt_rows
from model.runtime.batch_sizes import BatchSizes
from model.runtime.cuda_graphs import Graphs, Outputs, Recorder
from model.sampling.latents import Latents
from model.sampling.prediction import to_eps
from model.sampling.samplers import Evaluate, EvaluateAll, EvaluateFrames, Prediction
from model.sampling.schedule import NoiseSchedule
from model.sampling.transfer import to_device

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
    gradient share one backward of the sum of their objectives, since samples do not depend on each other. A guided
    prompt is two clips of a batch, whose predictions are combined.

    `batch_sizes`: those of the base network, for requests of one clip; without them a group is one forward, whatever
    its size. `frames_per_forward` bounds the memory of super-resolution. A forward that runs out of memory is repeated
    at half the size, which becomes the new limit; a single clip or frame that does not fit raises.

    With a recorder (`use_graphs`), forwards without a gradient at the sizes in use are replayed as CUDA graphs.
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
        self.frame_sizes = BatchSizes((frames_per_forward,))
        self.halvings: Counter[str] = Counter()
        """Forwards that ran out of memory, by network."""
        self.graphs = {"base": Graphs("base", self._base_forward), "sr": Graphs("sr", self._sr_forward)}
        self._recorder: Recorder | None = None
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

    @property
    def frames_per_forward(self) -> int:
        """Frames of super-resolution in one forward at most."""
        return self.frame_sizes.largest

    @frames_per_forward.setter
    def frames_per_forward(self, frames: int) -> None:
        self.frame_sizes = BatchSizes((frames,))

    def use_graphs(self, recorder: Recorder | None) -> None:
        """Replay CUDA graphs, captured by `recorder` at the first forward of each batch size and kind; None ends it."""
        self._recorder = recorder
        for graphs in self.graphs.values():
            graphs.use(recorder)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the networks' weights on their device."""
        networks = [network for network in (self.base, self.sr) if network is not None]
        tensors = (tensor for network in networks for tensor in chain(network.parameters(), network.buffers()))
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def release(self) -> None:
        """Free the networks and their CUDA graphs. This evaluator cannot be used any more; whoever else holds it keeps
        no memory of the device."""
        for graphs in self.graphs.values():
            graphs.use(None)
        recorder, self._recorder = self._recorder, None
        self.base = self.sr = None
        if recorder is not None:
            recorder.renew()  # after the networks: it returns what is cached to the device

    def __call__(self, requests: Sequence[Request]) -> list[Prediction]:
        parts = [prompt_rows.parts(request) for request in requests]
        rows = [part for own in parts for part in own]
        groups: dict[Hashable, list[int]] = defaultdict(list)
        for position, row in enumerate(rows):
            groups[_group(row)].append(position)
        answers: dict[int, Prediction] = {}
        for positions in groups.values():
            members = [rows[position] for position in positions]
            answers.update(zip(positions, self._answer(members), strict=True))
        given = iter([answers[position] for position in range(len(rows))])
        return [
            prompt_rows.whole(request, list(islice(given, len(own))))
            for request, own in zip(requests, parts, strict=True)
        ]

    def cost(self, requests: Sequence[Request]) -> float:
        """Relative cost of answering these base network requests together, by the measured times of the batch sizes; by
        default a single clip costs 1."""
        groups: Counter[Hashable] = Counter()
        for part in (part for request in requests for part in prompt_rows.parts(request)):
            groups[_group(part)] += 2 if prompt_rows.is_guided(part) else 1
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
                if not (is_out_of_memory(error) and self._can_shrink(size)):
                    raise
            # Outside the except block: inside it the error still holds the memory of the forward.
            self._shrink("base", batch_sizes, size)
        return answers

    def _can_shrink(self, size: int) -> bool:
        return size > 1 or any(len(graphs) for graphs in self.graphs.values())

    def _shrink(self, network: str, sizes: BatchSizes, size: int) -> None:
        """After a forward of `size` clips or frames ran out of memory: use smaller ones. The graphs of other sizes are
        captured again at their next use, since only without any graph their memory can be returned."""
        self.halvings[network] += 1
        unit = "clips" if network == "base" else "frames"
        if sizes.halve(size):
            _log.warning("out of memory with %d %s: at most %d from now on", size, unit, sizes.largest)
            if sizes is not self._gradient_sizes:
                self._drop_graphs()
        else:
            _log.warning("out of memory with a single one of %s beside CUDA graphs: no graphs from now on", unit)
            self._drop_graphs()
            self.use_graphs(None)
        torch.cuda.empty_cache()

    def _drop_graphs(self) -> None:
        for graphs in self.graphs.values():
            graphs.clear()
        if self._recorder is not None:
            self._recorder.renew()

    def _base(self, requests: Sequence[Evaluate]) -> list[Prediction]:
        if requests[0].wrt:
            return self._base_with_gradient(requests)
        sizes = [request.x.batch for request in requests]
        captured = self.batch_sizes is not None and sum(sizes) in self.batch_sizes.sizes
        with torch.inference_mode():
            inputs = self._base_inputs(requests)
            eps = Latents(*(self.graphs["base"] if captured else self._base_forward)(**inputs))
            return [Prediction(part) for part in eps.split(sizes)]

    def _base_with_gradient(self, requests: Sequence[Evaluate]) -> list[Prediction]:
        """One forward and backward; the two parts of a guided prompt are both in its batch."""
        sizes, wrt = [request.x.batch for request in requests], requests[0].wrt
        guided = prompt_rows.is_guided(requests[0])
        rows = list(chain(*zip(*map(prompt_rows.split, requests), strict=True))) if guided else requests
        inputs = self._base_inputs(rows)
        with torch.enable_grad():
            variables = {
                name: torch.cat([request.x[name] for request in requests]).detach().requires_grad_(True) for name in wrt
            }
            doubled = {name: torch.cat([value, value]) if guided else value for name, value in variables.items()}
            parts = Latents(*self._base_forward(**{**inputs, **doubled})).split([row.x.batch for row in rows])
            if guided:
                pairs = zip(requests, parts[: len(requests)], parts[len(requests) :], strict=True)
                parts = [prompt_rows.combined(*pair) for pair in pairs]
            objectives = [r.objective(eps) for r, eps in zip(requests, parts, strict=True) if r.objective is not None]
            gradients = torch.autograd.grad(torch.stack(objectives).sum(), list(variables.values()))
        gradient = Latents(*(dict(zip(wrt, gradients, strict=True)).get(name) for name in MODALITIES))
        return [
            Prediction(eps.map(Tensor.detach), gradient=share)
            for eps, share in zip(parts, gradient.split(sizes), strict=True)
        ]

    def _base_inputs(self, requests: Sequence[Evaluate]) -> dict[str, Any]:
        """The inputs of `_base_forward` for all clips of `requests`."""
        assert self.base is not None
        x = Latents(*(_cat([getattr(request.x, name) for request in requests]) for name in MODALITIES))
        device = x.present[0].device
        shifts = _cat([request.shifts for request in requests])
        text = prompt_rows.captions(requests, self.base.config.text, device)
        return {
            "video": x.video,
            "audio": x.audio,
            "times": self._times(requests, device),
            "shifts": to_device(shifts, device) if shifts is not None else None,
            "coupled": requests[0].coupled,
            "tokens": text.tokens if text is not None else None,
            "mask": text.mask if text is not None else None,
        }

    def _base_forward(
        self,
        video: Tensor | None,
        audio: Tensor | None,
        times: Tensor,
        shifts: Tensor | None,
        coupled: bool,
        tokens: Tensor | None,
        mask: Tensor | None,
    ) -> Outputs:
        """ε̂ of both modalities. `times` (clips, 2, 3) as of `_times`; `tokens` and `mask` of the captions."""
        assert self.base is not None
        x = Pair(video, audio)
        of_modality = times.unbind(1)
        t = x.map(lambda _, rows: rows[:, 0], of_modality)
        text = (TextTokens(tokens, mask),) if tokens is not None and mask is not None else ()
        predicted = self.base(x, t, shifts, coupled, *text)
        prediction = self.base.config.prediction
        return tuple(predicted.map(lambda value, at, rows: _to_eps(prediction, value, at, rows), x, of_modality))

    def _times(self, requests: Sequence[Evaluate], device: torch.device) -> Tensor:
        """The times of every clip in video and audio, (clips, 2, 3): the network's, α and σ."""
        assert self.base is not None
        prediction = self.base.config.prediction
        rows = [
            [self._time(prediction, request.t if own is None else own) for own in (request.t_video, request.t_audio)]
            for request in requests
            for _ in range(request.x.batch)
        ]
        return to_device(torch.tensor(rows, dtype=torch.float32), device)

    def _time(self, prediction: PredictionType, t: float) -> tuple[float, float, float]:
        """The network's time, and α and σ of the requested one: the sampler uses these to get back from ε̂ to x̂_0,
        which must be the network's own."""
        at = max(t, 0.0)
        ratios = (1.0, 0.0) if prediction == "eps" else (self.schedule.alpha(at), self.schedule.sigma(at))
        return self.schedule.model_time(t), *ratios

    def _super_resolution(self, requests: Sequence[EvaluateFrames]) -> list[Prediction]:
        if self.sr is None:
            raise ValueError("this model has no super-resolution network")
        sizes = [request.x.shape[0] for request in requests]
        x = torch.cat([request.x for request in requests])
        low_res = torch.cat([request.low_res for request in requests])
        prediction = self.sr.config.prediction
        times = [row for request in requests for row in [self._time(prediction, request.t)] * len(request.x)]
        parts: list[Outputs] = []
        done = 0
        while done < len(x):
            size = self.frame_sizes.plan(len(x) - done)[0]
            own = slice(done, done + size)
            try:
                parts.append(self._frames(x[own], low_res[own], times[own], size))
                done += size
                continue
            except Exception as error:
                if not is_out_of_memory(error) or not self._can_shrink(size):
                    raise
            self._shrink("sr", self.frame_sizes, size)
        with torch.inference_mode():
            eps, variance = (_cat(values) for values in zip(*parts, strict=True))
        assert eps is not None
        shares = variance.split(sizes) if variance is not None else [None] * len(sizes)
        return [Prediction(part, variance=share) for part, share in zip(eps.split(sizes), shares, strict=True)]

    def _frames(self, x: Tensor, low_res: Tensor, times: Sequence[tuple[float, ...]], size: int) -> Outputs:
        """One forward. With graphs it is padded to `size`, and with a single batch size, so that clips are
        bit-identical in any batch."""
        frames = len(x)
        single = self.batch_sizes is not None and len(self.batch_sizes.sizes) == 1
        missing = size - frames if single or self._recorder is not None else 0
        if missing:
            x, low_res = (torch.cat([value, value[-1:].repeat_interleave(missing, 0)]) for value in (x, low_res))
            times = [*times, *[times[-1]] * missing]
        rows = to_device(torch.tensor(times, dtype=torch.float32), x.device)
        captured = len(x) in self.frame_sizes.sizes
        with torch.inference_mode():
            outputs = (self.graphs["sr"] if captured else self._sr_forward)(x=x, low_res=low_res, times=rows)
        return tuple(value[:frames] if value is not None else None for value in outputs)

    def _sr_forward(self, x: Tensor, low_res: Tensor, times: Tensor) -> Outputs:
        """ε̂, and the variance if the network learns it. `times` (frames, 3): the network's, α and σ."""
        assert self.sr is not None
        predicted, variance = self.sr(x, low_res, times[:, 0])
        return _to_eps(self.sr.config.prediction, predicted, x, times), variance


def _to_eps(prediction: PredictionType, predicted: Tensor, x: Tensor, times: Tensor) -> Tensor:
    """ε̂. `times` (samples, 3): the network's, α and σ."""
    alpha, sigma = (times[:, place].view(-1, *(1,) * (x.dim() - 1)) for place in (1, 2))
    return to_eps(prediction, predicted, x, alpha, sigma)


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
    return "base", shapes, request.coupled, request.wrt, request.shifts is None, prompt_rows.is_guided(request)


def _cat(values: Sequence[Tensor | None]) -> Tensor | None:
    """The values concatenated; `_group` ensures that all of a group have the value or none has."""
    present = [value for value in values if value is not None]
    return torch.cat(present) if present else None
