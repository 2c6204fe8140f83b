"""The classifiers of `scenes`: kind, attributes and frames with an event, from the sound or from the pictures alone.

They have the encoders of the classifiers of `bounce`. The weights in scenes.safetensors were written by
`python -m model.evaluation.classifiers scenes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from model.evaluation.classifiers.networks import (
    HIDDEN,
    Classifier,
    PictureClassifier,
    SoundClassifier,
    load_tensors,
)
from model.training.scenes.kinds import KINDS, MOST_ATTRIBUTES

SCENE_WEIGHTS = Path(__file__).with_name("scenes.safetensors")


@dataclass(frozen=True)
class Answers:
    """Logits: `kind` (clips, kinds), `attributes` (clips, kinds, MOST_ATTRIBUTES) that the value is 1 if the clip is of
    that kind, `events` (clips, frames)."""

    kind: Tensor
    attributes: Tensor
    events: Tensor


class SceneClassifier(nn.Module):
    """`encoder` of one modality, and linear layers for the answers."""

    def __init__(self, encoder: Classifier) -> None:
        super().__init__()
        self.encoder = encoder
        self.encoder.classes = nn.Conv1d(HIDDEN, 1, 3, padding=1)
        self.clip = nn.Linear(3 * HIDDEN, len(KINDS) * (1 + MOST_ATTRIBUTES))

    def forward(self, clips: Tensor, sample_rate: int, frames: int) -> Answers:
        hidden = self.encoder.hidden(clips, sample_rate, frames)
        summary = torch.cat([hidden.mean(2), hidden.amax(2), hidden.std(2, correction=0)], dim=1)
        answers = self.clip(summary).unflatten(1, (len(KINDS), 1 + MOST_ATTRIBUTES))
        return Answers(answers[..., 0], answers[..., 1:], self.encoder.classes(hidden)[:, 0])


def scene_networks() -> tuple[SceneClassifier, SceneClassifier]:
    """For sound and for pictures, untrained."""
    return SceneClassifier(SoundClassifier()), SceneClassifier(PictureClassifier())


@cache
def load_scene_classifiers(path: Path = SCENE_WEIGHTS) -> tuple[SceneClassifier, SceneClassifier]:
    """The trained networks, for sound and for pictures, in float32 on the CPU."""
    networks = scene_networks()
    load_tensors(path, *networks)
    return networks
