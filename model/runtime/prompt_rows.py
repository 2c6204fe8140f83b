"""Guided prompts as rows of a batch: a request that combines two predictions is two requests of one prediction each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from model.networks.config import TEXT_TOKENS
from model.networks.text import TextTokens
from model.sampling.latents import Latents
from model.sampling.samplers import Evaluate, EvaluateFrames, Prediction, Prompt


def is_guided(request: Evaluate | EvaluateFrames) -> bool:
    """Whether its prediction combines two."""
    return isinstance(request, Evaluate) and request.prompt is not None and request.prompt.against is not None


def split(request: Evaluate) -> tuple[Evaluate, Evaluate]:
    """The two parts of a guided request: with its caption, and with the one to keep away from."""
    prompt = request.prompt
    assert prompt is not None
    assert prompt.against is not None
    return replace(request, prompt=Prompt(prompt.text)), replace(request, prompt=Prompt(prompt.against))


def parts(request: Evaluate | EvaluateFrames) -> tuple[Evaluate | EvaluateFrames, ...]:
    """The requests that may be evaluated apart. An objective is a function of the combined prediction, so a request
    with a gradient stays whole."""
    if isinstance(request, Evaluate) and is_guided(request) and not request.wrt:
        return split(request)
    return (request,)


def whole(request: Evaluate | EvaluateFrames, answers: Sequence[Prediction]) -> Prediction:
    """The answer to a request from those to its `parts`."""
    if len(answers) == 1:
        return answers[0]
    assert isinstance(request, Evaluate)
    return Prediction(combined(request, answers[0].eps, answers[1].eps))


def combined(request: Evaluate, text: Latents, against: Latents) -> Latents:
    """ε̂ of a guided request (see Prompt)."""
    assert request.prompt is not None
    return against + request.prompt.scale * (text - against)


def captions(requests: Sequence[Evaluate], channels: int | None, device: torch.device) -> TextTokens | None:
    """The caption of every clip, without tokens where a request has no prompt. None for a network without text."""
    if channels is None:
        if any(request.prompt is not None for request in requests):
            raise ValueError("this model knows no words")
        return None
    size = channels

    def of(request: Evaluate) -> TextTokens:
        if request.prompt is not None:
            return request.prompt.text
        none = torch.zeros(request.x.batch, TEXT_TOKENS, dtype=torch.bool, device=device)
        return TextTokens(torch.zeros(*none.shape, size, device=device), none)

    rows = [of(request) for request in requests]
    return TextTokens(torch.cat([row.tokens for row in rows]), torch.cat([row.mask for row in rows]))
