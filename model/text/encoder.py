"""The frozen text encoder: a caption to token vectors.

`wordllama` 0.4 (MIT) ships static token vectors of 256 dimensions, distilled from the embeddings of large language
models, with their tokenizer of 32,000 pieces. A token's vector does not depend on the words around it. The files are
read from the installed package; its own loader, which can download others, is not imported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from model.networks.config import TEXT_TOKENS
from model.networks.text import TextTokens

NAME = "wordllama"
PADDING = -1
"""Fills up a row of token numbers."""

_CACHED = 100_000
"""Captions whose token numbers are kept."""


class EncoderError(RuntimeError):
    """The encoder's files are missing or not those expected; the message says which."""


class TextEncoder:
    """Token numbers and vectors. `vectors` (tokens, channels) are float16, on the CPU."""

    def __init__(self, tokenizer: Tokenizer, vectors: Tensor) -> None:
        self.vectors = vectors
        self._tokenizer = tokenizer
        self.sha256 = hashlib.sha256(vectors.contiguous().view(torch.uint8).numpy().data).hexdigest()
        self._known: dict[str, np.ndarray] = {}

    def encode(self, captions: Sequence[str | None], device: torch.device | str = "cpu") -> TextTokens:
        """Vectors float32 (captions, TEXT_TOKENS, channels) and mask. None, or no words, is a row without tokens."""
        rows = np.stack([self._row(caption or "") for caption in captions])
        text = look_up(self.vectors, torch.from_numpy(rows))
        return TextTokens(text.tokens.to(device), text.mask.to(device))

    def rows(self, captions: Sequence[str]) -> Tensor:
        """Numbers of the first TEXT_TOKENS tokens of each caption (captions, TEXT_TOKENS), int64, filled up with
        PADDING. They are kept, for captions that repeat; `encode` keeps nothing of a prompt."""
        known = self._known
        if len(known) + len(captions) > _CACHED:
            known = self._known = {}
        for caption in captions:
            if caption not in known:
                known[caption] = self._row(caption)
        return torch.from_numpy(np.stack([known[caption] for caption in captions]))

    def _row(self, caption: str) -> np.ndarray:
        """Letter case and repeated blanks make no difference."""
        words = " ".join(caption.lower().split())
        found = self._tokenizer.encode(words, add_special_tokens=False).ids[:TEXT_TOKENS] if words else []
        row = np.full(TEXT_TOKENS, PADDING)
        row[: len(found)] = found
        return row


def look_up(vectors: Tensor, rows: Tensor) -> TextTokens:
    """The `vectors` (tokens, channels) of `rows` of token numbers, both on one device, float32; zeros for padding."""
    mask = rows != PADDING
    return TextTokens(vectors[rows.clamp(min=0)].float() * mask[:, :, None], mask)


@lru_cache(maxsize=1)
def load_encoder() -> TextEncoder:
    """The encoder of the installed package, loaded once. Raises EncoderError."""
    found = find_spec(NAME)
    if found is None or not found.submodule_search_locations:
        raise EncoderError(f"the package {NAME} is not installed; models that follow prompts need it")
    folder = Path(found.submodule_search_locations[0])
    tokenizer, vectors = folder / "tokenizers/l2_supercat_tokenizer_config.json", folder / "weights"
    try:
        table = load_file(vectors / "l2_supercat_256.safetensors")["embedding.weight"]
        return TextEncoder(Tokenizer.from_file(str(tokenizer)), table.half())
    except Exception as error:  # `tokenizers` raises plain Exceptions
        raise EncoderError(f"the files of the package {NAME} in {folder} cannot be read: {error}") from error
