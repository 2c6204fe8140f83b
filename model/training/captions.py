"""Captions of training batches as tokens on the device, and which samples go without.

The token vectors stay on the device; of each caption only the numbers of its tokens are sent there, and these are kept,
because captions come from templates and repeat.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from model.networks.text import TextTokens
from model.text.encoder import TextEncoder, load_encoder, look_up
from model.training.configuration import TextConfig
from model.training.random_draws import step_generator


class CaptionTokens:
    """Encodes captions on `device`; the encoder is loaded at the first use."""

    def __init__(self, config: TextConfig, seed: int, device: torch.device) -> None:
        self._config, self._seed, self._device = config, seed, device

    def encode(self, captions: Sequence[str], kept: Tensor) -> TextTokens:
        """Tokens of each caption; none for the samples where `kept` (batch,), bool, is False."""
        numbers = self._encoder.rows(captions)
        if self._device.type == "cuda":
            numbers = numbers.pin_memory()  # a copy from other memory would wait for the device
        tokens, mask = look_up(self._vectors, numbers.to(self._device, non_blocking=True))
        return TextTokens(tokens, mask & kept[:, None])

    def draw_kept(self, step: int, batch: int) -> Tensor:
        """Which samples of the batch of `step` have their caption, (batch,), bool."""
        draw = step_generator(self._seed, step, self._device, "captions")
        return torch.rand(batch, generator=draw, device=self._device) >= self._config.drop

    @cached_property
    def _encoder(self) -> TextEncoder:
        return load_encoder()

    @cached_property
    def _vectors(self) -> Tensor:
        return self._encoder.vectors.to(self._device)
