"""Captions of training batches as tokens on the device, which samples go without, and what a model says of them.

The token vectors stay on the device; of each caption only the numbers of its tokens are sent there, and these are kept,
because captions come from templates and repeat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from model.checkpoint.text_encoding import TextEncoding
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


def text_encoding(config: TextConfig, before: TextEncoding | None = None) -> TextEncoding | None:
    """What the manifest of a model trained so says of prompts. Scale and share are those of the configuration, else
    those of `before`, which the model had."""
    if config.encoder == "none":
        return None
    new = TextEncoding(config.encoder, load_encoder().sha256, examples=config.examples)
    kept = before or new
    return replace(
        new,
        scale=kept.scale if config.scale is None else config.scale,
        guided_share=kept.guided_share if config.guided_share is None else config.guided_share,
    )
