"""Text conditioning of the coupled U-Net: a trunk for the tokens, and their cross-attention.

The tokens of a caption come from a frozen encoder (model/text). Their mean joins the time embedding, and at coarse
scales each modality attends to them. Both end in layers that start at zero, so a network that was trained without text
computes the same when text is added to it.

A caption that is left out, for classifier-free guidance (Ho and Salimans, 2022), is one learned token.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.networks.config import TEXT_TOKENS, UNetConfig
from model.networks.layers import GroupNorm, PointConv, TimeProjection, zero_init
from model.networks.pair import Pair


class TextTokens(NamedTuple):
    """Captions for a batch: `tokens` (batch, TEXT_TOKENS, channels), and `mask` (batch, TEXT_TOKENS), bool, True where
    there is a token. A row without any has no caption."""

    tokens: Tensor
    mask: Tensor


class TextTrunk(nn.Module):
    """Token vectors to keys of the cross-attention and to a term of the time embedding."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        assert config.text is not None
        self.channels, width = config.text, config.text_width
        self.proj = PointConv(config.text, width)
        self.position = nn.Embedding(TEXT_TOKENS, width)
        self.null = nn.Embedding(1, width)
        self.pooled = zero_init(TimeProjection(width, config.channels))
        nn.init.normal_(self.position.weight, std=0.1)
        nn.init.normal_(self.null.weight, std=0.1)

    def forward(self, text: TextTokens | None, batch: int) -> tuple[TextTokens, Tensor]:
        """Tokens of the network's width, with at least one in each row; the term (batch, channels), float32."""
        weight = self.proj.weight
        if text is None:
            zeros = torch.zeros(batch, TEXT_TOKENS, self.channels, device=weight.device)
            text = TextTokens(zeros, torch.zeros(zeros.shape[:2], dtype=torch.bool, device=weight.device))
        self._check(text, batch)
        missing = ~text.mask.any(1, keepdim=True)
        tokens = self.proj(text.tokens.to(weight.dtype)) + self.position.weight
        tokens = torch.where(missing[:, :, None], self.null.weight, tokens)
        first = torch.arange(TEXT_TOKENS, device=weight.device) == 0
        mask = text.mask | (missing & first)
        # Summed in float32 without a cast: products with a mask are exact.
        total = (tokens * mask[:, :, None]).sum(1, dtype=torch.float32)
        mean = total / mask.sum(1, keepdim=True, dtype=torch.float32)
        return TextTokens(tokens, mask), self.pooled(mean)

    def _check(self, text: TextTokens, batch: int) -> None:
        wanted = (batch, TEXT_TOKENS, self.channels)
        if tuple(text.tokens.shape) != wanted or tuple(text.mask.shape) != wanted[:2]:
            raise ValueError(
                f"text must be tokens {wanted} with a mask {wanted[:2]}; "
                f"got {tuple(text.tokens.shape)} and {tuple(text.mask.shape)}"
            )


class TextAttention(nn.Module):
    """Cross-attention of each modality to the tokens of the caption: x + proj(attention(q(norm(x)), kv(text)))."""

    def __init__(self, config: UNetConfig, channels: int) -> None:
        super().__init__()
        self.video = TextBranch(config, channels) if "video" in config.modalities else None
        self.audio = TextBranch(config, channels) if "audio" in config.modalities else None

    def forward(self, x: Pair, text: TextTokens) -> Pair:
        return Pair(
            None if self.video is None or x.video is None else self.video(x.video, text),
            None if self.audio is None or x.audio is None else self.audio(x.audio, text),
        )


class TextBranch(nn.Module):
    """One modality, (batch, …, channels)."""

    def __init__(self, config: UNetConfig, channels: int) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm = GroupNorm(channels, config.norm_groups)
        self.q = PointConv(channels, channels)
        self.kv = PointConv(config.text_width, 2 * channels)
        self.proj = zero_init(PointConv(channels, channels))

    def forward(self, x: Tensor, text: TextTokens) -> Tensor:
        q = self.q(self.norm(x)).flatten(1, -2).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(text.tokens).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=text.mask[:, None, None])
        return x + self.proj(out.transpose(1, 2).reshape(x.shape))
