"""Distances that need no published weights: what raises them, what does not, and the classifiers' accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from model.evaluation import fidelity
from model.evaluation.classifiers.networks import (
    HIDDEN,
    WEIGHTS,
    PictureClassifier,
    SoundClassifier,
    load_classifiers,
    save_tensors,
    targets,
)
from model.evaluation.classifiers.training import CLIP, accuracy, train
from model.evaluation.fidelity import DISTANCES, features_of
from model.evaluation.gradient_features import gradient_features
from model.evaluation.mel_features import FEATURES, MELS, log_mel, mel_features
from model.sampling.latents import Latents
from model.training.bounce import Bounce

CLIPS = 64

Measured = Callable[[Latents], dict[str, tuple[float, float]]]


@pytest.fixture(scope="module")
def real() -> Latents:
    return Bounce(CLIP, 11, "train").batch(torch.arange(3 * CLIPS))


@pytest.fixture(scope="module")
def sets(real: Latents) -> list[Latents]:
    """Three sets of real clips: to be changed, the floor's, and the reference."""
    return real.split([CLIPS] * 3)


@pytest.fixture(scope="module")
def measured(sets: list[Latents]) -> Measured:
    """Distance and floor by name, of given clips."""
    other, reference = (features_of(clips, CLIP) for clips in sets[1:])

    def distances(made: Latents) -> dict[str, tuple[float, float]]:
        found = fidelity.fidelity(features_of(made, CLIP), other, reference)
        return {each.distance: (each.value.value, each.floor.value) for each in found}

    return distances


def still(clips: Latents) -> Latents:
    return Latents(clips["video"][:, :1].expand_as(clips["video"]), clips["audio"])


def hissing(clips: Latents) -> Latents:
    noise = torch.randn(clips["audio"].shape, generator=torch.Generator().manual_seed(1))
    return Latents(clips["video"], clips["audio"] + 0.05 * noise)


def without_onsets(clips: Latents) -> Latents:
    return Latents(clips["video"], 0.1 * torch.sin(torch.arange(CLIP.samples) * 0.5).expand_as(clips["audio"]))


def grey(clips: Latents) -> Latents:
    return Latents(clips["video"].mean(2, keepdim=True).expand_as(clips["video"]), clips["audio"])


@pytest.mark.parametrize(
    ("change", "raised"),
    [
        (still, {"gradients", "picture_events"}),
        (grey, {"gradients", "picture_events"}),
        (hissing, {"log_mel", "sound_events"}),
        (without_onsets, {"log_mel", "sound_events"}),
    ],
)
def test_a_change_of_one_modality_raises_its_distances_only(
    sets: list[Latents], measured: Measured, change: Callable[[Latents], Latents], raised: set[str]
) -> None:
    found = measured(change(sets[0]))
    assert {name for name, (value, floor) in found.items() if value > 2 * floor} == raised


def test_real_clips_are_as_far_from_real_clips_as_the_floor(sets: list[Latents], measured: Measured) -> None:
    for value, floor in measured(sets[0]).values():
        assert 0.5 * floor < value < 2 * floor


def test_a_model_of_one_modality_has_the_distances_of_that_modality(sets: list[Latents]) -> None:
    found = features_of(Latents(None, sets[0].audio), CLIP)
    assert set(found) == {each.name for each in DISTANCES if each.modality == "audio"}


def test_a_tone_is_in_the_band_of_its_frequency_at_its_level() -> None:
    time = torch.arange(16_000) / 16_000
    level = log_mel(torch.stack([0.5 * torch.sin(2 * math.pi * hertz * time) for hertz in (200, 800, 3200)]), 16_000)
    assert level.shape[:2] == (3, MELS)
    bands = level.mean(2).argmax(1)
    assert bands[0] < bands[1] < bands[2]
    assert mel_features(torch.zeros(2, 16_000), 16_000).isfinite().all()
    louder = log_mel(torch.sin(2 * math.pi * 800 * time)[None], 16_000) - level[1]
    assert float(louder[0, bands[1], 20]) == pytest.approx(math.log(2), abs=0.01)
    assert mel_features(torch.zeros(2, 16_000), 16_000).shape == (2, FEATURES)


def test_gradients_tell_the_direction_of_motion() -> None:
    ramp = torch.arange(24.0).expand(24, 24) / 24

    def moving(across: int) -> Tensor:
        base = torch.sin(6 * (ramp + ramp.T))
        return torch.stack([base.roll(step * across, 1) for step in range(4)])[None, :, None].expand(1, 4, 3, 24, 24)

    right, left = gradient_features(moving(1)), gradient_features(moving(-1))
    assert (right - left).abs().max() > 0.05
    with pytest.raises(ValueError, match="at least 2 frames; got 1"):
        gradient_features(torch.zeros(1, 1, 3, 8, 8))


def test_the_shipped_classifiers_know_the_impacts_of_new_clips() -> None:
    assert WEIGHTS.stat().st_size < 2 * 2**20
    found = accuracy(*load_classifiers(), clips=64)
    assert found.sound > 0.8
    assert found.pictures > 0.8


def test_targets_are_the_hues_and_places_of_the_impacts() -> None:
    scene = Bounce(CLIP, 5, "train").scene(torch.arange(8))
    wanted = targets(scene, CLIP.frames)
    assert torch.equal(wanted[:, :, :4].any(2), scene.flash.any(1))
    assert torch.equal(wanted[:, :, 4:].any(2), scene.flash.any(1))


def test_training_makes_networks_whose_features_have_the_stated_shape() -> None:
    seen: list[tuple[int, float, float]] = []
    sound, pictures = train(2, lambda *found: seen.append(found))
    assert isinstance(sound, SoundClassifier)
    assert isinstance(pictures, PictureClassifier)
    tensors = save_tensors(sound, pictures)
    assert all(value.dtype == torch.float16 for value in tensors.values())
    features = pictures.features(torch.zeros(2, 5, 3, 32, 32), 16_000, 5)
    assert features.shape == (2, 2 * HIDDEN)
