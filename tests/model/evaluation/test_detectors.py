"""Detectors against the ground truth of the data set, at both trained sizes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor
from torch.nn.functional import max_pool1d

from model.evaluation import flow
from model.evaluation.audio_features import Onsets, detect_onsets
from model.evaluation.video_features import Discs, detect_discs
from model.networks.config import PRESETS, ClipSpec
from model.sampling.latents import Latents
from model.training.bounce import Bounce, Scene

SPECS = {"16px": ClipSpec(height=16, width=16, sample_rate=8000), "32px": PRESETS["demo"].clip}
COUNT = 96


@dataclass(frozen=True)
class Found:
    scene: Scene
    clips: Latents
    onsets: Onsets
    discs: Discs


@cache
def found(name: str) -> Found:
    spec = SPECS[name]
    data, index = Bounce(spec, 11, "train"), torch.arange(COUNT)
    clips = data.batch(index)
    onsets = detect_onsets(clips["audio"], spec.sample_rate, spec.fps)
    return Found(data.scene(index), clips, onsets, detect_discs(clips["video"]))


def nearest(scene: Scene, onsets: Onsets) -> tuple[Tensor, Tensor]:
    """For each onset the distance in seconds to the nearest impact of its clip, and that impact's index."""
    distance = (scene.time[onsets.clip] - onsets.time[:, None]).abs()
    return distance.min(1)


@pytest.mark.parametrize("name", SPECS)
def test_onsets_are_detected_at_impacts(name: str) -> None:
    scene, onsets = found(name).scene, found(name).onsets
    distance, event = nearest(scene, onsets)
    right = len({(int(c), int(e)) for c, e, d in zip(onsets.clip, event, distance, strict=True) if d < 0.03})
    score = 2 * right / (len(onsets.clip) + int(scene.impact.sum()))
    print(f"{name}: onset F1 within 30 ms {score:.4f}, mean error {1000 * distance[distance < 0.03].mean():.1f} ms")
    assert score >= 0.97
    assert distance[distance < 0.03].mean() < 0.006


@pytest.mark.parametrize("name", SPECS)
def test_pitch_and_timbre_are_recovered(name: str) -> None:
    scene, onsets = found(name).scene, found(name).onsets
    distance, event = nearest(scene, onsets)
    true = distance < 0.03
    pitch = scene.pitch[onsets.clip, event]
    semitones = 12 * torch.log2(onsets.pitch / pitch).abs()[true]
    hue = scene.hue[onsets.clip, scene.disc[onsets.clip, event]]
    timbre = (hue == onsets.timbre)[true].double().mean()
    print(f"{name}: pitch within a semitone {(semitones < 1).double().mean():.4f}, timbre {timbre:.4f}")
    assert (semitones < 1).double().mean() >= 0.97
    assert timbre >= 0.97


@pytest.mark.parametrize("name", SPECS)
def test_flashes_are_detected_with_hue_and_place(name: str) -> None:
    scene, discs = found(name).scene, found(name).discs
    true = scene.flash & scene.present[..., None]
    # A disc may hide the flash of another.
    assert (discs.flash == true.any(1)).double().mean() >= 0.995
    one = true.sum(1) == 1
    disc = true.int().argmax(1)
    hue = (scene.hue.gather(1, disc) == discs.hue)[one].double().mean()
    place = scene.position.gather(1, disc[:, None, :, None].expand(-1, 1, -1, 2))[:, 0]
    error = (place - discs.place).abs()[one].quantile(0.95)
    print(f"{name}: hue {hue:.4f}, 95 % of places within {error:.4f} widths")
    assert hue >= 0.97
    assert error < 0.03


@pytest.mark.parametrize("name", SPECS)
def test_reversals_are_detected_without_flashes(name: str) -> None:
    scene, discs = found(name).scene, found(name).discs
    true = (scene.flash & scene.present[..., None]).any(1)
    near = max_pool1d(true.float(), 3, 1, 1).bool()
    assert near[discs.turns].double().mean() >= 0.97, "a reversal needs a wall"
    inner = torch.zeros_like(true)
    inner[:, 2:-2] = true[:, 2:-2]
    seen = max_pool1d(discs.turns.float(), 3, 1, 1).bool()
    assert seen[inner].double().mean() >= 0.8


def test_a_picture_without_discs_and_a_hum_have_no_events() -> None:
    spec = SPECS["16px"]
    dim = torch.full((3, *spec.video_shape), -0.6)
    discs = detect_discs(dim)
    assert not discs.events.any()
    time = torch.arange(spec.samples) / spec.sample_rate
    hum = 0.2 * torch.sin(2 * torch.pi * 120 * time).expand(3, 1, -1)
    assert len(detect_onsets(hum, spec.sample_rate, spec.fps).clip) == 0
    assert len(detect_onsets(torch.zeros(3, 1, spec.samples), spec.sample_rate, spec.fps).clip) == 0


def test_detectors_tolerate_noise_and_blur() -> None:
    name = "32px"
    spec, scene, clips = SPECS[name], found(name).scene, found(name).clips
    draws = torch.Generator().manual_seed(0)
    audio = clips["audio"] + 0.005 * torch.randn(clips["audio"].shape, generator=draws)
    blurred = torch.nn.functional.avg_pool3d(clips["video"].transpose(1, 2), (1, 3, 3), 1, (0, 1, 1)).transpose(1, 2)
    video = blurred + 0.05 * torch.randn(blurred.shape, generator=draws)
    onsets, discs = detect_onsets(audio, spec.sample_rate, spec.fps), detect_discs(video)
    distance, _ = nearest(scene, onsets)
    assert (distance < 0.03).double().mean() >= 0.9
    assert (distance < 0.03).sum() >= 0.9 * scene.impact.sum()
    true = (scene.flash & scene.present[..., None]).any(1)
    assert (discs.flash == true).double().mean() >= 0.95


def test_flow_length_equals_the_displacement() -> None:
    video = torch.full((1, 3, 3, 32, 32), -1.0)
    for frame, left in enumerate((4, 10, 10)):
        video[0, frame, :, 10:18, left : left + 8] = 1.0
    lengths = flow.motion(video)[0]
    assert lengths[0] == 0
    assert lengths[1] > 0
    assert lengths[2] == 0
    # Six of 32 pixels, over the area that the square covers and uncovers.
    assert 0.5 < lengths[1] / (6 / 32 * (8 * 14) / 32**2) < 2
