"""Opens the data set that a configuration names, and reads its batches ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from model.networks.config import ClipSpec
from model.sampling.latents import Latents
from model.training.bounce import Bounce
from model.training.configuration import DataConfig, TrainingConfig
from model.training.dataset import Source
from model.training.folder import open_folder
from model.training.mixture import Mixture
from model.training.scenes import Scenes

AHEAD = 3
"""Batches read from disk in advance."""

RENDERED_AHEAD = 64_000_000
"""Numbers in the batches that a GPU renders together. Rendering takes thousands of small kernels, whose launches take
the same time for one batch and for several."""


def open_sources(config: TrainingConfig, out: Path, say: Callable[[str], None]) -> tuple[Source, Source]:
    """The training and the held-out data. Calls `say` for each file left out. Raises DataError if none is left."""
    clip, sr = config.model.clip, config.model.sr
    factor = sr.factor if config.kind == "sr" and sr is not None else 1
    if config.data.source != "folder":
        drawn = _procedural(config.data, clip, factor if factor > 1 else 4)
        return drawn, drawn
    cache = Path(config.data.cache) if config.data.cache else out / "cache"
    shown = replace(clip, height=clip.height * factor, width=clip.width * factor)
    modalities = config.model.base.modalities if config.kind == "base" else ("video",)
    return open_folder(config.data, shown, modalities, cache, say)


def _procedural(data: DataConfig, clip: ClipSpec, factor: int) -> Source:
    bounce = Bounce(clip, data.seed, "train", factor)
    if data.source == "bounce":
        return bounce
    scenes = Scenes(clip, data.seed, "train", factor)
    return Mixture(scenes, bounce, data.bounce_share) if data.bounce_share else scenes


class ReadAhead:
    """Reads the next batches of a source, known from `order`, while the device works on the current one.

    Batches from disk are read in a thread. Of a procedural source, as many batches are rendered at once as have
    `render_ahead` numbers; default: RENDERED_AHEAD on a GPU, one batch on a CPU.
    """

    def __init__(
        self, source: Source, order: Iterator[Tensor], device: torch.device, render_ahead: int | None = None
    ) -> None:
        self._source, self._order, self._device = source, order, device
        self._pool = ThreadPoolExecutor(1, "data") if getattr(source, "reads_disk", False) else None
        self._coming: deque[tuple[Tensor, Future[Any]]] = deque()
        self._rendered: deque[tuple[Tensor, Any]] = deque()
        self._render_ahead = (RENDERED_AHEAD if device.type == "cuda" else 0) if render_ahead is None else render_ahead
        self._together = 1
        self._captions: dict[int, list[str]] = {}

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
        """As of the source. Those of the batches that are rendered already are computed together."""
        first = int(indexes[0])
        if first not in self._captions:
            parts = [indexes, *(each for each, _ in self._rendered)]
            words = self._source.captions(torch.cat(parts))
            if words is None:
                return None
            following = iter(words)
            self._captions = {int(part[0]): list(islice(following, len(part))) for part in parts}
        return self._captions.pop(first)

    def _take(self, read: Callable[[Tensor, torch.device], Any], indexes: Tensor, device: torch.device) -> Any:
        if self._pool is None:
            return self._render(read, indexes, device) if self._render_ahead else read(indexes, device)
        while len(self._coming) < AHEAD and (following := next(self._order, None)) is not None:
            self._coming.append((following, self._pool.submit(read, following, self._device)))
        expected, batch = self._coming.popleft()
        _check_due(expected, indexes)
        return batch.result()

    def _render(self, read: Callable[[Tensor, torch.device], Any], indexes: Tensor, device: torch.device) -> Any:
        if not self._rendered:
            parts = list(islice(self._order, self._together))
            sizes = [len(part) for part in parts]
            found = read(torch.cat(parts), device)
            numbers = sum(value.numel() for value in (found.present if isinstance(found, Latents) else (found,)))
            self._together = max(1, self._render_ahead * len(parts) // numbers)
            self._rendered.extend(zip(parts, found.split(sizes), strict=True))
        expected, batch = self._rendered.popleft()
        _check_due(expected, indexes)
        return batch


def _check_due(expected: Tensor, indexes: Tensor) -> None:
    if not torch.equal(expected, indexes):
        raise RuntimeError(f"samples {indexes[0]} … were requested where {expected[0]} … were due")
