"""What clips are compared by, and which first predictions a constant stands for."""

from __future__ import annotations

import math

import torch

from model.sampling.latents import Latents
from model.tuning.features import QUIET, Features, log_spectrum
from model.tuning.problems import constant_start

RATE = 8000


def tone(seconds: float = 0.5) -> torch.Tensor:
    return torch.sin(2 * math.pi * 1000 * torch.arange(round(seconds * RATE)) / RATE)[None, None]


def test_a_sine_of_full_scale_has_magnitude_one() -> None:
    level = log_spectrum(tone(), RATE)
    loudest = level.amax(2)[0, 0, 2:-2]
    torch.testing.assert_close(loudest, torch.full_like(loudest, math.log(1 + QUIET)), rtol=0, atol=0.01)
    silence = log_spectrum(torch.zeros(1, 1, RATE), RATE)
    torch.testing.assert_close(silence, torch.full_like(silence, math.log(QUIET)))


def test_faint_noise_in_a_pause_counts_more_than_in_a_tone() -> None:
    """Two errors of the same size: by the values they are equal, by the spectrum they are not."""
    clip = torch.cat([tone(), torch.zeros(1, 1, RATE // 2)], 2)
    noise = 0.05 * torch.randn(1, 1, RATE // 2, generator=torch.Generator().manual_seed(0))
    none = torch.zeros_like(noise)
    louder = clip + torch.cat([0.05 * tone(), none], 2)
    in_pause = clip + torch.cat([none, noise * (0.05 * tone()).norm() / noise.norm()], 2)
    features = Features(RATE)

    def distances(made: torch.Tensor) -> dict[str, float]:
        found, wanted = features(Latents(None, made)), features(Latents(None, clip))
        return {name: float((value - wanted[name]).norm()) for name, value in found.items()}

    one, other = distances(louder), distances(in_pause)
    assert math.isclose(one["audio"], other["audio"], rel_tol=1e-4)
    assert other["spectrum"] > 3 * one["spectrum"]


def test_onsets_are_the_rises_of_the_spectrum() -> None:
    """Where a tone begins they are highest, and while it decays they are nearly 0."""
    decaying = tone() * torch.exp(-20 * torch.arange(RATE // 2) / RATE)
    rises = Features(RATE)(Latents(None, torch.cat([torch.zeros(1, 1, RATE // 2), decaying], 2)))["onsets"][0, 0]
    begin = RATE // 2 // round(0.016 * RATE)
    assert abs(int(rises.argmax()) - begin) <= 1
    assert float(rises[begin + 3 :].max()) < 0.1 * float(rises.max())


def test_a_constant_stands_only_for_predictions_that_are_nearly_the_same() -> None:
    draws = torch.Generator().manual_seed(0)
    made = Latents(torch.randn(4, 2, 3, 4, 4, generator=draws), torch.randn(4, 1, 64, generator=draws))
    same = made.map(lambda value: 0.5 + 0.1 * value)
    assert constant_start(same, made) == {"video": float(same["video"].mean()), "audio": float(same["audio"].mean())}
    assert constant_start(same.replace("audio", 0.5 * made["audio"]), made) == {}
