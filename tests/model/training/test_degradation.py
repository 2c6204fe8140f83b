"""JPEG on the device against a JPEG library, and the frequency of each degradation."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from model.training.configuration import DegradationConfig
from model.training.degradation import draw_degradation
from model.training.jpeg import jpeg


def picture(height: int, width: int) -> Tensor:
    """(1, 3, height, width) in 0 … 255: soft colours with a hard disc."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    disc = ((x - 0.6) ** 2 + (y - 0.4) ** 2 < 0.05).float()
    planes = torch.stack([x * 0.8 + disc * 0.2, y * 0.6, 0.5 + 0.4 * torch.sin(6 * x) * (1 - disc)])
    return (planes * 255).round().clamp(0, 255)[None]


@pytest.mark.parametrize("quality", [20, 50, 80])
@pytest.mark.parametrize("size", [(32, 32), (40, 56)])
def test_jpeg_matches_a_jpeg_library(quality: int, size: tuple[int, int]) -> None:
    before = picture(*size)
    file = io.BytesIO()
    Image.fromarray(before[0].permute(1, 2, 0).to(torch.uint8).numpy()).save(file, "JPEG", quality=quality)
    expected = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float()
    made = jpeg(before, torch.tensor([quality]))[0]
    error, loss = (made - expected).abs().mean(), (expected - before[0]).abs().mean()
    assert error < 1.0, f"{error} levels off the library"
    assert error < 0.6 * loss, "nearer to the library's picture than that is to the original"


def test_degradation_follows_the_configured_probabilities_and_strengths() -> None:
    drawn = draw_degradation(DegradationConfig(), 20_000, (2, 2), 4, torch.Generator().manual_seed(0))
    noisy, coded = drawn.sigma > 0, drawn.quality > 0
    assert noisy.float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert coded.float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert drawn.sigma.max().item() == pytest.approx(20 / 127.5, rel=0.01)
    assert (drawn.quality[coded].min().item(), drawn.quality.max().item()) == (20, 80)


def test_without_noise_and_jpeg_a_frame_is_only_downscaled() -> None:
    config = DegradationConfig(downscale="area", noise_probability=0, jpeg_probability=0)
    large = torch.rand(2, 3, 16, 16) * 2 - 1
    small = draw_degradation(config, 2, (4, 4), 4, torch.Generator().manual_seed(0)).apply(large, slice(0, 2))
    torch.testing.assert_close(small, large.unflatten(2, (4, 4)).unflatten(4, (4, 4)).mean((3, 5)))


def test_rows_are_degraded_as_in_the_whole_batch() -> None:
    large = torch.rand(6, 3, 64, 64) * 2 - 1
    drawn = draw_degradation(DegradationConfig(), 6, (16, 16), 4, torch.Generator().manual_seed(3))
    torch.testing.assert_close(drawn.apply(large[2:4], slice(2, 4)), drawn.apply(large, slice(0, 6))[2:4])
