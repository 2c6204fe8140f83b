"""Patch networks: pixels and samples of a token, and divisibility of the clip."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.checkpoint.loading import build, seeded_weights
from model.networks.config import PRESETS, ConfigError, ModelConfig, SRConfig
from model.networks.coupled_unet import CoupledUNet
from model.networks.layers import from_video_patches, to_audio_patches, to_video_patches
from model.networks.pair import Pair
from model.networks.super_resolution import SRUNet

POCKET = PRESETS["pocket"]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_token_of_video_has_the_pixels_of_its_square() -> None:
    video = drawn(2, 3, 3, 8, 12)
    tokens = to_video_patches(video, 4)
    assert tokens.shape == (2, 3, 2, 3, 48)
    square = video[1, 2, :, 4:8, 8:12]
    assert torch.equal(tokens[1, 2, 1, 2], square.flatten())
    assert torch.equal(from_video_patches(tokens.movedim(-1, 2), 4), video)


def test_a_token_of_audio_has_the_samples_of_its_run() -> None:
    audio = drawn(2, 1, 12)
    tokens = to_audio_patches(audio, 4)
    assert torch.equal(tokens[1, 2], audio[1, 0, 8:12])


def test_patches_of_one_pixel_are_the_published_layout() -> None:
    assert torch.equal(to_video_patches(drawn(1, 2, 3, 4, 4), 1), drawn(1, 2, 3, 4, 4).movedim(2, -1))


@torch.no_grad()
def test_a_network_of_patches_keeps_the_shape_and_the_samples_apart() -> None:
    network = build(CoupledUNet, POCKET.base)
    seeded_weights(network, seed=5)
    x = Pair(drawn(2, *POCKET.clip.video_shape), drawn(2, *POCKET.clip.audio_shape, seed=1))
    t = Pair(torch.tensor([100, 700]), torch.tensor([100, 700]))
    both = network(x, t)
    for i in range(2):
        alone = network(*(pair.map(lambda value, i=i: value[i : i + 1]) for pair in (x, t)))
        for together, single, given in zip(both, alone, x, strict=True):
            assert together is not None
            assert single is not None
            assert together.shape == given.shape
            torch.testing.assert_close(together[i : i + 1], single, atol=2e-4, rtol=1e-4)


@torch.no_grad()
def test_an_event_in_one_frame_changes_that_frames_audio_most() -> None:
    """With an unshifted window of one frame, the first RS-MMA block connects each frame's sound to its own picture."""
    network = build(CoupledUNet, POCKET.base)
    seeded_weights(network, seed=5)
    block = network.input_blocks[1][1]
    video, audio = drawn(1, 16, 4, 4, 64), drawn(1, 320, 64, seed=1)
    flash = video.clone()
    flash[:, 7] = 5.0
    block.audio.norm.weight.zero_()  # its statistics cover the whole clip
    block.video.norm.weight.fill_(1.0)
    changed = (block(Pair(flash, audio)).audio - block(Pair(video, audio)).audio).abs().sum(-1)[0].view(16, 20).mean(1)
    others = torch.cat([changed[:7], changed[8:]])
    assert changed[7] > 2 * others.max()


@torch.no_grad()
def test_super_resolution_of_patches_keeps_the_shape_and_the_frames_apart() -> None:
    assert POCKET.sr is not None
    network = build(SRUNet, POCKET.sr)
    seeded_weights(network, seed=3)
    x, low_res, t = drawn(2, 3, 128, 128), drawn(2, 3, 16, 16, seed=1), torch.tensor([5, 700])
    predicted, logits = network(x, low_res, t)
    assert predicted.shape == x.shape
    assert logits is None
    alone, _ = network(x[1:], low_res[1:], t[1:])
    torch.testing.assert_close(predicted[1:], alone, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("changed", "numbers"),
    [
        ({"clip": replace(POCKET.clip, height=20)}, ["20×16", "8", "patches of 4"]),
        ({"clip": replace(POCKET.clip, sample_rate=8010)}, ["12816", "160", "patches of 40"]),
        ({"base": replace(POCKET.base, audio_patch=400), "clip": POCKET.clip}, ["12800", "8", "16"]),
        ({"sr": SRConfig(factor=2, channel_mult=(1, 1), attention_scales=(), patch=32)}, ["32", "64", "patches of 32"]),
    ],
)
def test_sizes_not_divisible_by_patches_are_refused_with_the_numbers(changed: dict, numbers: list[str]) -> None:
    with pytest.raises(ConfigError) as refusal:
        ModelConfig(**{"clip": POCKET.clip, "base": POCKET.base, "sr": None, **changed})
    for number in numbers:
        assert number in str(refusal.value)
