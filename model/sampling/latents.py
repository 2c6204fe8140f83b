"""A clip as samplers see it: video and audio with the arithmetic of their update rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

BLOCK = 2**20
"""Elements that an update rule is computed of at once: of a long clip, its intermediate results would take as much
memory as several clips."""


@dataclass(frozen=True, slots=True)
class Latents:
    """`video` (batch, frames, 3, height, width) and `audio` (batch, channels, samples), values in [-1, 1] when clean.

    Arithmetic works modality by modality, with numbers or other Latents, so that a sampler's update reads as in its
    paper. A modality may be None (single-modality models); it stays None.
    """

    video: Tensor | None
    audio: Tensor | None

    def map(self, function: Callable[..., Tensor], *others: Latents) -> Latents:
        """Apply `function` to each modality that is present, together with the same modality of `others`."""

        def one(name: str) -> Tensor | None:
            mine = getattr(self, name)
            return None if mine is None else function(mine, *(getattr(other, name) for other in others))

        return Latents(one("video"), one("audio"))

    def replace(self, modality: str, value: Tensor | None) -> Latents:
        """A copy with `modality` replaced."""
        return Latents(value, self.audio) if modality == "video" else Latents(self.video, value)

    def __getitem__(self, modality: str) -> Tensor:
        value = self.video if modality == "video" else self.audio
        if value is None:
            raise KeyError(f"these latents have no {modality}")
        return value

    @property
    def present(self) -> tuple[Tensor, ...]:
        """The values of the modalities that are not None, video first."""
        return tuple(value for value in (self.video, self.audio) if value is not None)

    @property
    def batch(self) -> int:
        return self.present[0].shape[0]

    def split(self, sizes: Sequence[int]) -> list[Latents]:
        """Parts of these batch sizes."""
        video = self.video.split(list(sizes)) if self.video is not None else [None] * len(sizes)
        audio = self.audio.split(list(sizes)) if self.audio is not None else [None] * len(sizes)
        return [Latents(v, a) for v, a in zip(video, audio, strict=True)]

    def __add__(self, other: Latents | float) -> Latents:
        return self.map(lambda a, b: a + b, other) if isinstance(other, Latents) else self.map(lambda a: a + other)

    def __sub__(self, other: Latents | float) -> Latents:
        return self.map(lambda a, b: a - b, other) if isinstance(other, Latents) else self.map(lambda a: a - other)

    def __mul__(self, other: Latents | float) -> Latents:
        return self.map(lambda a, b: a * b, other) if isinstance(other, Latents) else self.map(lambda a: a * other)

    def __truediv__(self, other: float) -> Latents:
        return self.map(lambda a: a / other)

    __rmul__ = __mul__


State = Any
"""The state of a sampler: a clip (Latents), or for super-resolution a batch of frames (Tensor). Samplers use only
arithmetic that both have. A type variable cannot express that a generator is sent the type that it yielded."""


def in_blocks(function: Callable[..., State], state: State, *others: State) -> State:
    """`function` of states that acts on each element by itself; a long clip is computed in blocks, to the bit."""
    if isinstance(state, Latents):
        return state.map(lambda *tensors: _in_blocks(function, tensors), *others)
    return function(state, *others)


def _in_blocks(function: Callable[..., Tensor], tensors: Sequence[Tensor]) -> Tensor:
    first = tensors[0]
    if first.numel() <= BLOCK:
        return function(*tensors)
    made = torch.empty(first.shape, dtype=first.dtype, device=first.device)
    blocks = (tensor.reshape(-1).split(BLOCK) for tensor in tensors)
    for block, *parts in zip(made.view(-1).split(BLOCK), *blocks, strict=True):
        block.copy_(function(*parts))
    return made


def clip(x0: State) -> State:
    """Clean values are in [-1, 1]."""
    return x0.map(lambda v: v.clamp(-1, 1)) if isinstance(x0, Latents) else x0.clamp(-1, 1)


def dynamic_threshold(x0: State, quantile: float = 0.995) -> State:
    """Clip to the quantile of |x̂_0| of each sample where it exceeds 1, and scale back to [-1, 1] (Saharia et al.,
    2022)."""

    def threshold(value: Tensor) -> Tensor:
        limit = torch.quantile(value.abs().flatten(1), quantile, dim=1).clamp(min=1.0)
        limit = limit.view(-1, *[1] * (value.ndim - 1))
        return value.clamp(-limit, limit) / limit

    return x0.map(threshold) if isinstance(x0, Latents) else threshold(x0)


def unchanged(x0: State) -> State:
    """No limit on x̂_0, as the published DPM-Solver runs."""
    return x0
