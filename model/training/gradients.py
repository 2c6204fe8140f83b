"""The gradients of one training step: eagerly, or on a GPU by replaying a CUDA graph.

Launching the kernels of a forward and a backward pass takes longer than computing them unless the batch is large. A
graph of both is launched at once. It is recorded at the first step, after warm-up passes whose gradients are discarded.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from model.runtime.cuda_graphs import Outputs, Recorder, Recording
from model.training.configuration import TrainingConfig
from model.training.loss_terms import Inputs, Objective, Terms

_log = logging.getLogger(__name__)


class Gradients:
    """Computes the gradients of `network`, whose forward is `predict`, into its parameters, and clips them.

    `processes` compute together. With a recorder, steps without accumulation are recorded; the recording belongs to one
    batch size.
    """

    def __init__(self, predict: nn.Module, network: nn.Module, processes: int, recorder: Recorder | None) -> None:
        self.predict, self._network, self._processes = predict, network, processes
        self._recorder = recorder
        self._recording: Recording | None = None
        self._failed = False
        self._static: Inputs = {}

    def __call__(self, objective: Objective, config: TrainingConfig, inputs: Iterator[Inputs], seed: int) -> Tensor:
        """Gradients of the mean loss of the batch, from the `inputs` of each accumulation part; `seed` is that of
        dropout. Returns the norm before clipping, then sum and count of each loss term: a tensor (1 + 2 · terms,)."""
        if self._recorder is not None and config.accumulate == 1 and not self._failed:
            return self._replayed(objective, config, next(inputs), seed)
        torch.manual_seed(seed)
        return self._eager(objective, config, inputs)

    def release(self) -> None:
        """Drop the recording, before the batch size changes. The next batch size is recorded even if this one could
        not be: it may have been too large."""
        used = self._recording is not None or self._failed
        if self._recording is not None:
            self._recording.release()
        self._recording, self._failed, self._static = None, False, {}
        if self._recorder is not None and used:  # also a capture that failed leaves its pool behind
            self._recorder.renew()

    def _eager(self, objective: Objective, config: TrainingConfig, inputs: Iterator[Inputs]) -> Tensor:
        values: Tensor | None = None
        for part in range(config.accumulate):
            last = part == config.accumulate - 1
            wait = isinstance(self.predict, DistributedDataParallel) and not last
            with self.predict.no_sync() if wait else nullcontext():  # type: ignore[operator]
                terms = objective.losses(self.predict, next(inputs))
                self._loss(terms, config).backward()
            own = _values(terms)
            values = own if values is None else values + own
        assert values is not None
        return torch.cat([self._clipped(config)[None] / self._processes, values])

    def _loss(self, terms: Terms, config: TrainingConfig) -> Tensor:
        # Gradients are averaged over processes, and the loss is a mean over the samples of all of them.
        return torch.stack([term.sum for term in terms.values()]).sum() * (self._processes / config.batch)

    def _clipped(self, config: TrainingConfig) -> Tensor:
        limit = config.optimizer.clip_gradient or math.inf
        return nn.utils.clip_grad_norm_(self._network.parameters(), limit)

    def _replayed(self, objective: Objective, config: TrainingConfig, inputs: Inputs, seed: int) -> Tensor:
        if self._recording is None and not self._recorded(objective, config, inputs):
            torch.manual_seed(seed)
            return self._eager(objective, config, iter([inputs]))
        assert self._recording is not None
        _fill(self._static, inputs)
        torch.manual_seed(seed)
        self._recording.replay()
        values, *gradients = self._recording.outputs
        assert values is not None
        for parameter, gradient in zip(self._network.parameters(), gradients, strict=True):
            parameter.grad = gradient  # the next replay writes there again
        return values.clone()

    def _recorded(self, objective: Objective, config: TrainingConfig, inputs: Inputs) -> bool:
        """Record a step; if that fails, steps of this batch size are eager from now on."""
        assert self._recorder is not None
        self._static = {name: None if value is None else value.clone() for name, value in inputs.items()}
        parameters = list(self._network.parameters())

        def run() -> Outputs:
            # The gradients of a run are tensors of their own, each with the layout of its parameter. Those that
            # `torch.autograd.grad` returns need not be: two biases that are added share one, and it would be clipped
            # twice.
            for parameter in parameters:
                parameter.grad = None
            values = self._eager(objective, config, iter([self._static]))
            return values, *(parameter.grad for parameter in parameters)

        self._recorder.warm_up(run)
        try:
            self._recording = self._recorder.capture(run)
        except Exception as error:
            # Only the text is kept: the error holds the tensors of the step.
            reason = f"{type(error).__name__}: {error}"
        for parameter in parameters:
            parameter.grad = None
        if self._recording is None:
            _log.warning("training runs without a CUDA graph: %s", reason)
            self._failed, self._static = True, {}
        return self._recording is not None


def _values(terms: Terms) -> Tensor:
    """Sum and count of each term, float32."""
    return torch.stack([value.detach().float() for term in terms.values() for value in (term.sum, term.count)])


def _fill(static: Inputs, inputs: Inputs) -> None:
    """Copy `inputs` to where the recording reads them. Raises ValueError for another batch size."""
    for name, target in static.items():
        value = inputs[name]
        if target is None or value is None:
            if target is not value:
                raise ValueError(f"{name} is missing, or was when the step was recorded")
            continue
        if target.shape != value.shape:
            raise ValueError(f"{name} has shape {tuple(value.shape)}; the step was recorded with {tuple(target.shape)}")
        target.copy_(value)
