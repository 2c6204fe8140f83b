"""The type of the coupled network's inputs, activations and outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor


class Pair(NamedTuple):
    """One tensor for each modality; None for a modality that the network does not have."""

    video: Tensor | None
    audio: Tensor | None

    def map(self, function: Callable[..., Tensor], *others: Sequence[Any]) -> Pair:
        """Apply `function` to each modality that is present here, with the same modality of `others`."""
        return Pair(*(None if values[0] is None else function(*values) for values in zip(self, *others, strict=True)))
