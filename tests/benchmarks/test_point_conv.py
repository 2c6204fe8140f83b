"""benchmarks.point_conv times both ways at the sizes that a network has."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks import point_conv
from model.networks.config import PRESETS


def test_a_larger_batch_has_the_same_layers_with_more_tokens() -> None:
    config = replace(PRESETS["tiny"], sr=None)
    with torch.inference_mode():
        one, two = point_conv.sizes(config, 1), point_conv.sizes(config, 2)
    assert one.total() > 10
    assert {(2 * tokens, *channels): calls for (tokens, *channels), calls in one.items()} == two


@pytest.mark.parametrize("tokens", [192, 80, 10])  # blocks of 64 and of 16, and all in one
def test_both_ways_agree_and_their_times_are_compared(tokens: int) -> None:
    with torch.inference_mode():
        row = point_conv.measured((tokens, 32, 48), repeats=3)  # raises if they differ
    assert row["product_ms"] > 0 < row["convolution_ms"]
    assert 0.01 < row["ratio"] < 100
