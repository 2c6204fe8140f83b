"""Where clips come from. A data set is a function from sample numbers to clips, so that a run can go on at any step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from model.sampling.latents import Latents
from model.training.configuration import TrainingConfig

EVALUATION = 2**40
"""Sample numbers from here on are for looking at: no training run of a procedural data set gets so far."""

AHEAD = 3
"""Batches that are read from disk before they are asked for."""


class DataError(ValueError):
    """A data set that nothing can be trained on; the message says why."""


class Source(Protocol):
    """A data set. What it gives for a sample number depends on nothing else."""

    def batch(self, indexes: Tensor, device: torch.device) -> Latents:
        """Clips in [-1, 1] for the sample numbers `indexes` (batch,), int64, on `device`."""
        ...

    def frames(self, indexes: Tensor, device: torch.device) -> Tensor:
        """Frames (batch, 3, height·factor, width·factor) in [-1, 1], the targets of super-resolution."""
        ...


def open_sources(config: TrainingConfig, out: Path, say: Callable[[str], None]) -> tuple[Source, Source]:
    """The data to train on and the data to look at; `say` hears what is left out. Raises DataError if nothing is
    left."""
    clip, sr = config.model.clip, config.model.sr
    factor = sr.factor if config.kind == "sr" and sr is not None else 1
    if config.data.source == "bounce":
        from model.training.bounce import Bounce

        source = Bounce(clip, config.data.seed, "train", factor if factor > 1 else 4)
        return source, source
    from model.training.folder import open_folder

    cache = Path(config.data.cache) if config.data.cache else out / "cache"
    shown = replace(clip, height=clip.height * factor, width=clip.width * factor)
    modalities = config.model.base.modalities if config.kind == "base" else ("video",)
    return open_folder(config.data, shown, modalities, cache, say)


def evaluation_numbers(count: int) -> Tensor:
    """Sample numbers of the clips that every evaluation of a run looks at."""
    return torch.arange(EVALUATION, EVALUATION + count)


class ReadAhead:
    """A source whose next batches, known from `order`, are read in a thread while the device works on this one.

    A source that makes its clips on the device (no `reads_disk`) is asked directly: there is nothing to wait for.
    """

    def __init__(self, source: Source, order: Iterator[Tensor], device: torch.device) -> None:
        self._source, self._order, self._device = source, order, device
        self._pool = ThreadPoolExecutor(1, "data") if getattr(source, "reads_disk", False) else None
        self._coming: deque[tuple[Tensor, Future[Any]]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def batch(self, indexes: Tensor, device: torch.device) -> Latents:
        return self._take(self._source.batch, indexes, device)

    def frames(self, indexes: Tensor, device: torch.device) -> Tensor:
        return self._take(self._source.frames, indexes, device)

    def _take(self, read: Callable[[Tensor, torch.device], Any], indexes: Tensor, device: torch.device) -> Any:
        if self._pool is None:
            return read(indexes, device)
        while len(self._coming) < AHEAD and (following := next(self._order, None)) is not None:
            self._coming.append((following, self._pool.submit(read, following, self._device)))
        expected, batch = self._coming.popleft()
        if not torch.equal(expected, indexes):
            raise RuntimeError(f"samples {indexes[0]} … were asked for where {expected[0]} … were due")
        return batch.result()
