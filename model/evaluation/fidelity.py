"""Fréchet distances of clips to real ones by features that need no published weights. They are not FVD or FAD.

Hand-made features are divided by their standard deviations over the real clips, so that no unit outweighs another.
Those of a classifier have one unit, and some respond to few clips: they share one divisor, the root of their mean
variance. The distances have the bias of all Fréchet distances: compare values of equal
numbers of clips, and see `floor`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from model.evaluation.classifiers.networks import load_classifiers
from model.evaluation.distances import estimate, frechet_distance
from model.evaluation.gradient_features import gradient_features
from model.evaluation.intervals import Interval
from model.evaluation.mel_features import mel_features
from model.networks.config import ClipSpec
from model.sampling.latents import Latents

AT_ONCE = 64
"""Clips whose features are computed together."""

LEAST_SPREAD = 1e-3
"""Smallest standard deviation that features are divided by."""


@dataclass(frozen=True)
class FidelityDistance:
    """`features` of clips of one `modality`: (clips, …) → (clips, features). `one_unit`: they share one divisor."""

    name: str
    label: str
    modality: str
    features: Callable[[Tensor, ClipSpec], Tensor]
    one_unit: bool = False

    def divisor(self, reference: Tensor) -> Tensor:
        """What features are divided by, from those of the real clips."""
        spread = reference.std(0)
        return (spread.square().mean().sqrt() if self.one_unit else spread).clamp(min=LEAST_SPREAD)


@dataclass(frozen=True)
class Fidelity:
    """`value`: from the measured clips to the reference. `floor`: from as many other real clips to the reference."""

    distance: str
    value: Interval
    floor: Interval


def _sound_events(audio: Tensor, spec: ClipSpec) -> Tensor:
    return load_classifiers()[0].features(audio[:, 0], spec.sample_rate, audio.shape[2] * spec.fps // spec.sample_rate)


def _picture_events(video: Tensor, spec: ClipSpec) -> Tensor:
    return load_classifiers()[1].features(video, spec.sample_rate, video.shape[1])


DISTANCES = (
    FidelityDistance(
        "log_mel", "log-mel statistics", "audio", lambda audio, spec: mel_features(audio[:, 0], spec.sample_rate)
    ),
    FidelityDistance("sound_events", "bounce classifier, sound", "audio", _sound_events, one_unit=True),
    FidelityDistance("gradients", "gradient statistics", "video", lambda video, spec: gradient_features(video)),
    FidelityDistance("picture_events", "bounce classifier, pictures", "video", _picture_events, one_unit=True),
)
"""The classifiers suit clips of `bounce` only; the other two any clips."""

FOR_ANY_CLIPS = ("log_mel", "gradients")


def features_of(clips: Latents, spec: ClipSpec) -> dict[str, Tensor]:
    """The features of every distance whose modality is present, by the distance's name; on the CPU."""
    found = {}
    for distance in DISTANCES:
        values = clips.video if distance.modality == "video" else clips.audio
        if values is not None:
            parts = [distance.features(part.cpu(), spec) for part in values.split(AT_ONCE)]
            found[distance.name] = torch.cat(parts)
    return found


def fidelity(
    made: dict[str, Tensor], other: dict[str, Tensor], reference: dict[str, Tensor], seed: int = 0
) -> list[Fidelity]:
    """Distances of the features `made` and of those of `other` real clips to `reference`, which are real too.

    All come from `features_of`, and `other` and `reference` must share no clip. Raises ValueError for fewer than two
    clips.
    """
    found = []
    for distance in (each for each in DISTANCES if each.name in made):
        real = reference[distance.name]
        divisor = distance.divisor(real)
        value, floor = (
            estimate(frechet_distance, side[distance.name] / divisor, real / divisor, seed) for side in (made, other)
        )
        found.append(Fidelity(distance.name, value, floor))
    return found
