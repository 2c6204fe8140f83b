"""benchmarks.point_conv times both ways at the sizes that a network has."""

from __future__ import annotations

import torch

from benchmarks import point_conv
from model.checkpoint.loading import build
from model.networks import layers
from model.networks.config import PRESETS
from model.networks.coupled_unet import CoupledUNet


def test_a_larger_batch_has_the_same_layers_with_more_tokens() -> None:
    config = PRESETS["tiny"]
    network = build(CoupledUNet, config.base).eval()
    with torch.inference_mode():
        one, two = (point_conv.sizes(network, point_conv.inputs(config.clip, batch)) for batch in (1, 2))
    assert one.total() > 10
    assert {(2 * tokens, *channels): calls for (tokens, *channels), calls in one.items()} == two


def test_each_way_is_timed_and_the_choice_of_the_processor_left_as_it_was() -> None:
    ways: list[bool] = []
    chosen = layers.has_avx512
    found = point_conv.compared(lambda: ways.append(layers.has_avx512()), repeats=2, calls=1)
    assert ways == 2 * [False, False, True, True]
    assert found["ratio"] > 0
    assert layers.has_avx512 is chosen
