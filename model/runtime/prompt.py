"""The prompt of a job as the network reads it."""

from __future__ import annotations

import torch

from model.checkpoint.manifest import FILE_NAME, Manifest, ManifestError
from model.networks.text import TextTokens
from model.request import SamplingParams, prompt_forwards
from model.sampling.samplers import Prompt
from model.text import ENCODERS
from model.text.encoder import EncoderError, load_encoder


def encode_prompt(params: SamplingParams, device: torch.device) -> Prompt | None:
    """The captions of resolved `params`, on `device`; None without a prompt. Raises EncoderError."""
    if params.prompt is None:
        return None
    tokens, mask = load_encoder().encode([params.prompt, params.negative_prompt], device)
    text = TextTokens(tokens[:1], mask[:1])
    if prompt_forwards(params) == 1:
        return Prompt(text)
    assert params.prompt_scale is not None
    return Prompt(text, TextTokens(tokens[1:], mask[1:]), params.prompt_scale)


def check_encoder(manifest: Manifest) -> None:
    """Load the text encoder of a model that follows prompts. Raises ManifestError unless it is the one that the model
    was trained with."""
    text, path = manifest.text, manifest.folder / FILE_NAME
    if (text is None) != (manifest.config.base.text is None):
        raise ManifestError(f"{path}: text and config.base.text go together; a model that takes prompts has both")
    if text is None:
        return
    if ENCODERS.get(text.encoder) != manifest.config.base.text:
        raise ManifestError(
            f"{path}: there is no text encoder {text.encoder!r} of {manifest.config.base.text} channels"
        )
    try:
        found = load_encoder().sha256
    except EncoderError as error:
        raise ManifestError(f"{path}: {error}") from error
    if found != text.sha256:
        raise ManifestError(
            f"{path}: the model was trained with other token vectors (sha256 {text.sha256[:16]}…) than those of the "
            f"installed package {text.encoder} ({found[:16]}…); install the version that requirements.lock names"
        )
