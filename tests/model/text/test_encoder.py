"""The frozen text encoder."""

from __future__ import annotations

import socket
import sys

import pytest
import torch

from model.networks.config import TEXT_TOKENS
from model.text import ENCODERS
from model.text import encoder as encoders
from model.text.encoder import NAME, PADDING, EncoderError, load_encoder

SHA256 = "21ac5fc44ec359347ac30b81c799a32ff33e379ae732dedfe2f8f37b29a50061"
"""Of the token vectors of wordllama 0.4: a model belongs to its vectors, so they must not change unnoticed."""


def test_captions_are_rows_of_token_vectors() -> None:
    text = load_encoder().encode(["a heavy thunderstorm at night, lightning close by", None, ""])
    assert text.tokens.shape == (3, TEXT_TOKENS, ENCODERS[NAME])
    assert text.mask.sum(1).tolist() == [13, 0, 0]
    assert not text.tokens[~text.mask].any()
    assert text.tokens.dtype == torch.float32


def test_case_and_blanks_make_no_difference_and_words_do() -> None:
    rows = load_encoder().rows(["rain at night", "Rain  at Night ", "night at rain"])
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])


def test_a_long_caption_is_cut_off() -> None:
    rows = load_encoder().rows(["rain " * 60, "rain " * 32])
    assert torch.equal(rows[0], rows[1])
    assert PADDING not in rows


def test_a_caption_has_the_same_tokens_among_many_and_alone_and_when_it_is_seen_again() -> None:
    captions = [f"rain number {number}" for number in range(40)]
    encoder = load_encoder.__wrapped__()
    together = encoder.rows(captions)
    assert torch.equal(encoder.rows(captions[::-1]).flip(0), together)
    assert torch.equal(torch.cat([load_encoder().rows([caption]) for caption in captions]), together)


def test_words_that_mean_the_same_are_near() -> None:
    text = load_encoder().encode(["rain", "storm", "fire"])
    rain, storm, fire = (text.tokens * text.mask[..., None]).sum(1) / text.mask.sum(1, keepdim=True)
    assert torch.cosine_similarity(rain, storm, 0) > torch.cosine_similarity(rain, fire, 0)


def test_the_vectors_are_those_that_models_were_trained_with() -> None:
    assert load_encoder().sha256 == SHA256


def test_loading_needs_neither_the_package_s_code_nor_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("no connection is allowed")

    monkeypatch.setattr(socket, "socket", refuse)
    load_encoder.__wrapped__().encode(["rain"])
    assert NAME not in sys.modules


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "NAME", "wordllama_that_is_not_there")
    with pytest.raises(EncoderError, match="wordllama_that_is_not_there is not installed"):
        load_encoder.__wrapped__()
