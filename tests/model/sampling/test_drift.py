"""What windows of a joint clip have in common is pulled together, all else stays."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.sampling.drift import UNTIL, pull_strength, reduce_drift
from model.sampling.latents import Latents
from model.sampling.windows import Windows

WINDOWS = Windows(frames=32, window=8, samples=40)


def repeated(seed: int = 0) -> Latents:
    """A clip in which every window is the same as the one before."""
    generator = torch.Generator().manual_seed(seed)
    video = 0.3 * torch.randn(1, 8, 3, 20, 18, generator=generator)
    audio = 0.2 * torch.randn(1, 1, 8 * WINDOWS.samples, generator=generator)
    return Latents(video.repeat(1, 4, 1, 1, 1), audio.repeat(1, 1, 4))


def power(audio: Tensor) -> Tensor:
    """Of each window."""
    return audio.unflatten(-1, (4, -1)).square().mean((0, 1, 3))


def test_a_clip_whose_windows_are_alike_stays_as_it_is() -> None:
    clip = repeated()
    made = clip.map(torch.clone)
    reduce_drift(made, WINDOWS, 1.0)
    assert torch.allclose(made["video"], clip["video"], atol=1e-5)
    assert torch.allclose(made["audio"], clip["audio"], atol=1e-5)


@pytest.mark.parametrize("amount", [0.5, 1.0])
def test_a_colour_that_differs_between_windows_is_pulled_to_that_of_the_clip(amount: float) -> None:
    clip = repeated()
    step = torch.tensor([-0.2, -0.2, 0.2, 0.2]).repeat_interleave(8).view(1, -1, 1, 1, 1)
    made = Latents(clip["video"] + step, None)
    reduce_drift(made, WINDOWS, amount)
    first, last = (made["video"] - clip["video"])[:, [0, -1]].mean((0, 2, 3, 4)).tolist()
    assert last - first == pytest.approx(0.4 * (1 - amount), abs=1e-3)
    assert first + last == pytest.approx(0, abs=0.02)
    quick = made["video"][:, 1] - made["video"][:, 0]
    assert torch.allclose(quick, clip["video"][:, 1] - clip["video"][:, 0], atol=1e-5)


def test_a_level_that_differs_between_windows_is_pulled_to_that_of_the_clip() -> None:
    clip = repeated()
    loud = torch.tensor([0.5, 0.5, 1.5, 1.5]).repeat_interleave(8 * WINDOWS.samples)
    made = Latents(None, clip["audio"] * loud)
    before = power(made["audio"])
    reduce_drift(made, WINDOWS, 1.0)
    after = power(made["audio"])
    assert float((before[-1] / before[0]).log10()) * 10 == pytest.approx(9.54, abs=0.1)
    assert abs(float((after[-1] / after[0]).log10()) * 10) < 0.5


@pytest.mark.parametrize("quiet", [0.0, 1e-4])
@pytest.mark.parametrize("frames", [32, 512])
def test_a_pause_stays_one_and_changes_no_other_window(quiet: float, frames: int) -> None:
    windows = replace(WINDOWS, frames=frames)
    sound = 0.3 * torch.randn(1, 1, frames * windows.samples, generator=torch.Generator().manual_seed(1))
    pause = 8 * windows.samples
    sound[..., -pause:] *= quiet / 0.3
    made = Latents(None, sound.clone())
    reduce_drift(made, windows, 1.0)
    assert bool(made["audio"].isfinite().all())
    assert float(made["audio"][..., -pause // 2 :].abs().max()) <= 2 * float(sound[..., -pause // 2 :].abs().max())
    loud = slice(0, -2 * pause)
    change = made["audio"][..., loud].square().mean() / sound[..., loud].square().mean()
    assert abs(float(change.log10()) * 10) < 0.5


def test_a_window_that_is_much_quieter_becomes_at_most_twice_as_loud() -> None:
    clip = repeated()
    loud = torch.tensor([0.1, 1.0, 1.0, 1.0]).repeat_interleave(8 * WINDOWS.samples)
    made = Latents(None, clip["audio"] * loud)
    before = power(made["audio"])
    reduce_drift(made, WINDOWS, 1.0)
    assert 3.5 < float(power(made["audio"])[0] / before[0]) < 4.001


def test_silence_stays_silent() -> None:
    made = Latents(None, torch.zeros(1, 1, 32 * WINDOWS.samples))
    reduce_drift(made, WINDOWS, 1.0)
    assert not bool(made["audio"].any())


def test_the_pull_ends_where_the_signal_is_clear() -> None:
    assert pull_strength(-5.0) == pytest.approx(1, abs=1e-6)
    assert 0 < pull_strength(UNTIL - 0.1) < 0.2
    assert pull_strength(UNTIL) == pull_strength(4.0) == pull_strength(math.inf) == 0.0
