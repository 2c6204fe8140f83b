"""CUDA graphs: a forward pass is recorded once and replayed with a single launch instead of thousands.

A graph reads its inputs from fixed addresses and writes its outputs to others, so inputs are copied into static buffers
before a replay, and outputs out of the graph's memory after it. All graphs of a recorder share one memory pool: a
replay overwrites whatever another graph left there. Replays must therefore run one after another, on one stream.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

WARM_UP_RUNS = 2
"""Eager runs before a capture: they load and compile kernels, choose algorithms and allocate workspaces, which a
capture must not do."""

Outputs = tuple[Tensor | None, ...]

Forward = Callable[..., Outputs]
"""A forward pass of named tensors, all with the batch first, and constants (None among them). It must not wait for the
device, and must do the same work for all values of the tensors."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recording:
    """A captured run: `replay` repeats it and refills `outputs`; `release` frees it."""

    replay: Callable[[], None]
    outputs: Outputs
    release: Callable[[], None]


class Recorder(Protocol):
    """Records runs on a device."""

    def warm_up(self, run: Callable[[], Outputs]) -> None:
        """Run eagerly, so that the capture finds everything prepared. Raises what `run` raises."""

    def capture(self, run: Callable[[], Outputs]) -> Recording:
        """Record `run`. Raises if that is not possible; the device can still be used then."""

    def renew(self) -> None:
        """Return the memory of the graphs, all of which have been released."""


class CudaRecorder:
    """Records on a CUDA device, with one memory pool for all graphs."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # Warm-up and capture share a stream: the workspaces of cuBLAS belong to one, and stay out of the pool.
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, run: Callable[[], Outputs]) -> None:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UP_RUNS):
                run()
        torch.cuda.synchronize(self._device)

    def capture(self, run: Callable[[], Outputs]) -> Recording:
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()  # the pool cannot use what the warm-up has left cached
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self._stream):
            # Other threads may use the device meanwhile; their calls are no part of the graph.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                outputs = run()
            finally:
                graph.capture_end()
        return Recording(graph.replay, outputs, partial(self._release, graph))

    def _release(self, graph: torch.cuda.CUDAGraph) -> None:
        torch.cuda.synchronize(self._device)  # it may still run
        graph.reset()

    def renew(self) -> None:
        # A pool without graphs may not be used again while anything in it is still referenced.
        self._pool = torch.cuda.graph_pool_handle()
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class _Graph:
    inputs: Mapping[str, Tensor]
    recording: Recording
    size: int


class Graphs:
    """A forward pass that is captured at its first call for each combination of shapes and constants, and replayed
    from then on. Without a recorder, and where a capture has failed, it runs eagerly.

    The outputs belong to the caller. Call it under `torch.inference_mode`; one thread at a time.
    """

    def __init__(self, name: str, forward: Forward) -> None:
        """`name` is for the log."""
        self._name = name
        self._forward = forward
        self._recorder: Recorder | None = None
        self._graphs: dict[Hashable, _Graph] = {}
        self._eager: set[Hashable] = set()
        self._buffers: dict[Hashable, Tensor] = {}

    def use(self, recorder: Recorder | None) -> None:
        """Capture with `recorder` from now on; None ends it. Drops all graphs."""
        self.clear()
        self._recorder = recorder

    @property
    def sizes(self) -> list[int]:
        """Batch sizes that have a graph, ascending."""
        return sorted({graph.size for graph in self._graphs.values()})

    def __len__(self) -> int:
        return len(self._graphs)

    def clear(self) -> None:
        """Drop all graphs. They are captured again at their next use."""
        for graph in self._graphs.values():
            graph.recording.release()
        self._graphs.clear()
        self._buffers.clear()
        self._eager.clear()

    def __call__(self, **inputs: Any) -> Outputs:
        """The outputs of the forward pass for `inputs`, tensors on the device and constants."""
        key = _key(inputs)
        if not self._captured(key, inputs):
            return self._forward(**inputs)
        graph = self._graphs[key]
        for name, buffer in graph.inputs.items():
            buffer.copy_(inputs[name])
        graph.recording.replay()
        return tuple(output.clone() if output is not None else None for output in graph.recording.outputs)

    def _captured(self, key: Hashable, inputs: Mapping[str, Any]) -> bool:
        """Whether there is a graph; captures it if it is missing."""
        if key in self._graphs:
            return True
        if self._recorder is None or key in self._eager:
            return False
        static = {name: self._buffer(name, value) for name, value in inputs.items() if isinstance(value, Tensor)}

        def run() -> Outputs:
            return self._forward(**{**inputs, **static})

        for name, buffer in static.items():
            buffer.copy_(inputs[name])
        self._recorder.warm_up(run)
        size = len(next(iter(static.values())))
        try:
            self._graphs[key] = _Graph(static, self._recorder.capture(run), size)
        except Exception as error:
            # Only the text is kept: the error holds the tensors of the capture.
            reason = f"{type(error).__name__}: {error}"
        else:
            return True
        if not self._eager:
            _log.warning("%s network: a batch of %d runs without a CUDA graph: %s", self._name, size, reason)
        self._eager.add(key)
        return False

    def _buffer(self, name: str, value: Tensor) -> Tensor:
        """A static buffer for `value`: the first rows of the largest one, which the graphs of all sizes share."""
        key = name, value.shape[1:], value.dtype
        if key not in self._buffers or len(self._buffers[key]) < len(value):
            self._buffers[key] = torch.zeros_like(value, memory_format=torch.contiguous_format)
        return self._buffers[key][: len(value)]


def _key(inputs: Mapping[str, Any]) -> Hashable:
    """The shapes and types of the tensors, and the constants."""
    return tuple(
        (name, (value.shape, value.dtype) if isinstance(value, Tensor) else value)
        for name, value in sorted(inputs.items())
    )
