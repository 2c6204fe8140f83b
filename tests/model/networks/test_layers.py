"""The shared layers against the textbook formulas, in the usual channels-first layout."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model.networks.layers import (
    AudioConv,
    GroupNorm,
    PointConv,
    VideoConv,
    pool_audio,
    pool_video,
    repeat_audio,
    repeat_video,
    timestep_embedding,
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_timestep_embedding_is_cosines_then_sines_of_geometric_frequencies() -> None:
    embedding = timestep_embedding(torch.tensor([0, 7]), 6)
    frequencies = [1.0, 10_000 ** (-1 / 3), 10_000 ** (-2 / 3)]
    expected = [*(math.cos(7 * f) for f in frequencies), *(math.sin(7 * f) for f in frequencies)]
    assert embedding[1].tolist() == pytest.approx(expected, abs=1e-6)
    assert embedding[0].tolist() == [1, 1, 1, 0, 0, 0]


def test_timestep_embedding_of_odd_width_ends_in_zero_and_takes_fractions() -> None:
    embedding = timestep_embedding(torch.tensor([2.5]), 7)
    assert embedding.shape == (1, 7)
    assert embedding[0, 6] == 0
    assert embedding[0, 0].item() == pytest.approx(math.cos(2.5), abs=1e-6)


def norm_with_weights(channels: int) -> GroupNorm:
    norm = GroupNorm(channels)
    with torch.no_grad():
        norm.weight.copy_(1 + drawn(channels, seed=1))
        norm.bias.copy_(drawn(channels, seed=2))
    return norm


@pytest.mark.parametrize("frames", [3, 64], ids=["usual", "as many frames as channels"])
def test_group_norm_of_video_runs_over_frames_and_pixels(frames: int) -> None:
    norm, x = norm_with_weights(64), drawn(2, frames, 4, 5, 64) * 3 + 1
    expected = F.group_norm(x.movedim(-1, 1), 32, norm.weight, norm.bias).movedim(1, -1)
    torch.testing.assert_close(norm(x), expected)


@pytest.mark.parametrize("batch", [1, 3])
def test_modulation_scales_and_shifts_each_sample_after_the_norm(batch: int) -> None:
    norm, x, modulation = norm_with_weights(32), drawn(batch, 10, 32), drawn(batch, 64, seed=3)
    scale, shift = modulation[:, None, :32], modulation[:, None, 32:]
    torch.testing.assert_close(norm(x, modulation), norm(x) * (1 + scale) + shift, atol=1e-5, rtol=1e-5)


def test_group_norm_of_bfloat16_has_its_statistics_in_float32() -> None:
    x = (drawn(1, 40_000, 32) + 3).bfloat16()  # a bfloat16 sum of so many values stops growing at 256
    torch.testing.assert_close(norm_with_weights(32)(x).float(), norm_with_weights(32)(x.float()), atol=0.05, rtol=0.01)


def pooled(conv: VideoConv | AudioConv, x: Tensor) -> Tensor:
    for step in conv.steps(pool=True):
        x = step(x)
    return x


def test_video_convolution_is_2d_in_a_frame_then_1d_over_frames() -> None:
    conv, x = VideoConv(5, 7), drawn(2, 6, 4, 8, 5)
    spatial = F.conv2d(x.flatten(0, 1).permute(0, 3, 1, 2), conv.spatial.weight, conv.spatial.bias, padding=1)
    columns = (
        spatial.unflatten(0, (2, 6)).permute(0, 3, 4, 2, 1).flatten(0, 2)
    )  # (batch height width, channels, frames)
    temporal = F.conv1d(columns, conv.temporal.weight.squeeze(3), conv.temporal.bias, padding=1)
    expected = temporal.unflatten(0, (2, 4, 8)).permute(0, 4, 1, 2, 3)
    torch.testing.assert_close(conv(x), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pooled(conv, x), pool_video(expected.contiguous()), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dilation", [1, 4, 8, 64])
def test_audio_convolution_has_three_taps_a_dilation_apart(dilation: int) -> None:
    conv, x = AudioConv(3, 5, dilation), drawn(2, 48, 3)
    expected = F.conv1d(x.mT, conv.conv.weight.squeeze(2), conv.conv.bias, padding=dilation, dilation=dilation).mT
    torch.testing.assert_close(conv(x), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pooled(conv, x), pool_audio(expected.contiguous()), atol=1e-5, rtol=1e-5)


def test_pooling_undoes_repetition() -> None:
    video, audio = drawn(2, 3, 4, 6, 5), drawn(2, 12, 5)
    assert torch.equal(pool_video(repeat_video(video)), video)
    assert torch.equal(pool_audio(repeat_audio(audio)), audio)
    assert torch.equal(repeat_audio(audio)[:, 4:8], audio[:, 1:2].expand(-1, 4, -1))


@pytest.mark.parametrize("tokens", [192, 80, 10])  # blocks of 64, of 16, and all in one
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_1x1_convolution_is_the_same_map_of_every_token_in_both_ways(tokens: int, dtype: torch.dtype) -> None:
    layer = PointConv(24, 40).to(dtype)
    x = drawn(2, 24, tokens).transpose(1, 2).to(dtype)  # not contiguous
    with torch.inference_mode():
        product, convolution = F.linear(x, layer.weight, layer.bias), layer.by_convolution(x)
    assert convolution.shape == (2, tokens, 40)
    assert torch.allclose(product, convolution, atol=1e-5 if dtype == torch.float32 else 0.03)
