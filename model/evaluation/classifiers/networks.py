"""The classifiers: which kinds of impacts happen in each frame, from the sound or from the pictures alone.

Their last hidden layers are the features. The weights in events.safetensors were written by
`python -m model.evaluation.classifiers`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool1d, adaptive_avg_pool2d, silu

from model.evaluation.mel_features import MELS, log_mel
from model.training.bounce.scene import HUES, Scene

WEIGHTS = Path(__file__).with_name("events.safetensors")

PLACES = 8
"""Classes of the place of an impact, which is also its pitch: equal parts of the frame's width."""

CLASSES = HUES + PLACES
HIDDEN = 48
"""Values of a frame in the last hidden layer."""

SIDE = 16
"""Pixels; larger frames are averaged down to this size."""

LEVEL, SPREAD = -5.0, 3.0
"""About the mean and the standard deviation of log-mel levels in `bounce`."""


class Classifier(nn.Module, ABC):
    """`hidden` gives (clips, HIDDEN, frames); `forward` the logits (clips, frames, CLASSES), each class for itself."""

    def __init__(self) -> None:
        super().__init__()
        self.over_time = nn.ModuleList([nn.Conv1d(HIDDEN, HIDDEN, 3, padding=1) for _ in range(2)])
        self.classes = nn.Conv1d(HIDDEN, CLASSES, 1)

    @abstractmethod
    def encode(self, clips: Tensor, sample_rate: int, frames: int) -> Tensor:
        """(clips, HIDDEN, frames)"""

    def hidden(self, clips: Tensor, sample_rate: int, frames: int) -> Tensor:
        value = self.encode(clips, sample_rate, frames)
        for layer in self.over_time:
            value = silu(value + layer(value))
        return value

    def forward(self, clips: Tensor, sample_rate: int, frames: int) -> Tensor:
        return self.classes(self.hidden(clips, sample_rate, frames)).mT

    @torch.no_grad()
    def features(self, clips: Tensor, sample_rate: int, frames: int) -> Tensor:
        """(clips, 2 HIDDEN): mean and standard deviation of the last hidden layer over the frames."""
        value = self.hidden(clips, sample_rate, frames)
        return torch.cat([value.mean(2), value.std(2, correction=0)], dim=1)


class SoundClassifier(Classifier):
    """From (clips, samples) in [-1, 1], by log-mel spectrograms."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Conv1d(MELS, 64, 5, padding=2), nn.Conv1d(64, 64, 5, padding=2), nn.Conv1d(64, HIDDEN, 5, padding=2)]
        )

    def encode(self, clips: Tensor, sample_rate: int, frames: int) -> Tensor:
        value = (log_mel(clips, sample_rate) - LEVEL) / SPREAD
        for layer in self.layers:
            value = silu(layer(value))
        return adaptive_avg_pool1d(value, frames)


class PictureClassifier(Classifier):
    """From (clips, frames, 3, height, width) in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 32, 3, 2, 1), nn.Conv2d(32, 48, 3, 2, 1)]
        )
        self.place = nn.Linear(48 * (SIDE // 4) ** 2, HIDDEN)

    def encode(self, clips: Tensor, sample_rate: int, frames: int) -> Tensor:
        value = adaptive_avg_pool2d(clips.float().flatten(0, 1), SIDE)
        for layer in self.layers:
            value = silu(layer(value))
        return silu(self.place(value.flatten(1))).unflatten(0, (-1, frames)).mT


def targets(scene: Scene, frames: int) -> Tensor:
    """(clips, frames, CLASSES) of 0 and 1: hues and places of the impacts in each frame."""
    impact = scene.impact
    clip, event = impact.nonzero(as_tuple=True)
    hue = scene.hue.gather(1, scene.disc)[clip, event]
    place = (scene.x[clip, event] * PLACES).long().clamp(0, PLACES - 1)
    found = torch.zeros(len(impact), frames, CLASSES, device=impact.device)
    frame = scene.frame[clip, event]
    found[clip, frame, hue] = 1
    found[clip, frame, HUES + place] = 1
    return found


def save_tensors(sound: nn.Module, pictures: nn.Module) -> dict[str, Tensor]:
    """Both networks' weights as float16."""
    return {
        f"{name}.{key}": value.half().contiguous()
        for name, network in (("sound", sound), ("pictures", pictures))
        for key, value in network.state_dict().items()
    }


@cache
def load_classifiers(path: Path = WEIGHTS) -> tuple[SoundClassifier, PictureClassifier]:
    """The trained networks, in float32 on the CPU."""
    networks = SoundClassifier(), PictureClassifier()
    load_tensors(path, *networks)
    return networks


def load_tensors(path: Path, sound: nn.Module, pictures: nn.Module) -> None:
    """Load what `save_tensors` wrote, for evaluation."""
    tensors = load_file(path)
    for name, network in (("sound", sound), ("pictures", pictures)):
        own = {key.removeprefix(f"{name}."): value.float() for key, value in tensors.items() if key.startswith(name)}
        network.load_state_dict(own)
        network.eval().requires_grad_(False)
