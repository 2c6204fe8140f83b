"""A mixture of two data sets: a fixed share of the samples, spread evenly, comes from the second."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from model.sampling.latents import Latents
from model.training.dataset import Source


class Mixture:
    """Samples of `first`, and a `share` (0 … 1) of `second`. Sample i is one of `second` where ⌊(i + 1) share⌋ >
    ⌊i share⌋, and each data set's own samples are used in order, without gaps. Both are procedural."""

    def __init__(self, first: Source, second: Source, share: float) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"share must be 0 … 1; got {share:g}")
        self.first, self.second, self.share = first, second, share

    def batch(self, indexes: Tensor, device: torch.device) -> Latents:
        order, parts = self._split(indexes)
        found = [source.batch(own, device) for source, own in parts]
        back = order.to(device, non_blocking=True)
        video, audio = (torch.cat([part[name] for part in found])[back] for name in ("video", "audio"))
        return Latents(video, audio)

    def frames(self, indexes: Tensor, device: torch.device) -> Tensor:
        order, parts = self._split(indexes)
        return torch.cat([source.frames(own, device) for source, own in parts])[order.to(device, non_blocking=True)]

    def captions(self, indexes: Tensor) -> list[str]:
        order, parts = self._split(indexes)
        words: list[str] = []
        for source, own in parts:
            words += source.captions(own) or [""] * len(own)
        return [words[place] for place in order.tolist()]

    def _split(self, indexes: Tensor) -> tuple[Tensor, list[tuple[Source, Tensor]]]:
        """The samples of each data set that has any, and the places of the batch's samples in their concatenation."""
        numbers = indexes.tolist()
        before = torch.tensor([math.floor(number * self.share) for number in numbers], dtype=torch.int64)
        after = torch.tensor([math.floor((number + 1) * self.share) for number in numbers], dtype=torch.int64)
        second = after > before
        rows = torch.cat([(~second).nonzero()[:, 0], second.nonzero()[:, 0]])
        own = ((self.first, (indexes.cpu() - before)[~second]), (self.second, before[second]))
        return rows.argsort(), [(source, some) for source, some in own if len(some)]
