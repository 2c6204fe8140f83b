"""A data set is a function from sample indexes to clips, so a run can resume at any step."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from model.sampling.latents import Latents

EVALUATION = 2**40
"""First sample index reserved for evaluation; no training run on a procedural data set gets this far."""


class DataError(ValueError):
    """A data set that cannot be trained on; the message says why."""


class Source(Protocol):
    """A data set. A sample depends on its index only."""

    def batch(self, indexes: Tensor, device: torch.device) -> Latents:
        """Clips in [-1, 1] for the sample `indexes` (batch,), int64, on `device`."""
        ...

    def frames(self, indexes: Tensor, device: torch.device) -> Tensor:
        """Frames (batch, 3, height·factor, width·factor) in [-1, 1], the targets of super-resolution."""
        ...

    def captions(self, indexes: Tensor) -> list[str] | None:
        """A caption for each of the samples, the same at each call. None if the data set has none."""
        ...


def evaluation_indexes(count: int) -> Tensor:
    """Sample indexes of the clips that every evaluation of a run uses."""
    return torch.arange(EVALUATION, EVALUATION + count)
