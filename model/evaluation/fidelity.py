"""Fréchet distances of clips to real ones by features that need no published weights. They are not FVD or FAD.

Every feature is divided by its standard deviation over the real clips, so that no unit outweighs another. The distances
have the bias of all Fréchet distances: compare values of equal numbers of clips, and see `floor`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from model.evaluation.distances import Estimate, estimate, frechet_distance
from model.evaluation.gradient_features import gradient_features
from model.evaluation.mel_features import mel_features
from model.networks.config import ClipSpec
from model.sampling.latents import Latents

AT_ONCE = 64
"""Clips whose features are computed together."""

LEAST_SPREAD = 1e-3
"""Smallest standard deviation that a feature is divided by."""


@dataclass(frozen=True)
class FidelityDistance:
    """`features` of clips of one `modality`: (clips, …) → (clips, features)."""

    name: str
    label: str
    modality: str
    features: Callable[[Tensor, ClipSpec], Tensor]


@dataclass(frozen=True)
class Fidelity:
    """`value`: from the measured clips to the reference. `floor`: from as many other real clips to the reference."""

    distance: str
    value: Estimate
    floor: Estimate


DISTANCES = (
    FidelityDistance(
        "log_mel", "log-mel statistics", "audio", lambda audio, spec: mel_features(audio[:, 0], spec.sample_rate)
    ),
    FidelityDistance("gradients", "gradient statistics", "video", lambda video, spec: gradient_features(video)),
)


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
    for name, features in made.items():
        spread = reference[name].std(0).clamp(min=LEAST_SPREAD)
        value, floor = (
            estimate(frechet_distance, each / spread, reference[name] / spread, seed)
            for each in (features, other[name])
        )
        found.append(Fidelity(name, value, floor))
    return found
