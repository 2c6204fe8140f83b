"""Opens the data set that a configuration names, and reads its batches ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from model.sampling.latents import Latents
from model.training.bounce import Bounce
from model.training.configuration import TrainingConfig
from model.training.dataset import Source
from model.training.folder import open_folder

AHEAD = 3
"""Batches read from disk in advance."""


def open_sources(config: TrainingConfig, out: Path, say: Callable[[str], None]) -> tuple[Source, Source]:
    """The training and the held-out data. Calls `say` for each file left out. Raises DataError if none is left."""
    clip, sr = config.model.clip, config.model.sr
    factor = sr.factor if config.kind == "sr" and sr is not None else 1
    if config.data.source == "bounce":
        source = Bounce(clip, config.data.seed, "train", factor if factor > 1 else 4)
        return source, source
    cache = Path(config.data.cache) if config.data.cache else out / "cache"
    shown = replace(clip, height=clip.height * factor, width=clip.width * factor)
    modalities = config.model.base.modalities if config.kind == "base" else ("video",)
    return open_folder(config.data, shown, modalities, cache, say)


class ReadAhead:
    """Reads the next batches of a source, known from `order`, in a thread while the device works on the current one.

    A source that renders on the device (without `reads_disk`) is called directly.
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

    def captions(self, indexes: Tensor) -> list[str] | None:
        return self._source.captions(indexes)

    def _take(self, read: Callable[[Tensor, torch.device], Any], indexes: Tensor, device: torch.device) -> Any:
        if self._pool is None:
            return read(indexes, device)
        while len(self._coming) < AHEAD and (following := next(self._order, None)) is not None:
            self._coming.append((following, self._pool.submit(read, following, self._device)))
        expected, batch = self._coming.popleft()
        if not torch.equal(expected, indexes):
            raise RuntimeError(f"samples {indexes[0]} … were requested where {expected[0]} … were due")
        return batch.result()
