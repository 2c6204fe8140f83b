"""Trains the classifiers of `scenes`, in minutes on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from model.evaluation.classifiers.networks import SIDE
from model.evaluation.classifiers.scene_networks import Answers, SceneClassifier, scene_networks
from model.evaluation.classifiers.training import fit
from model.networks.config import ClipSpec
from model.sampling.latents import Latents
from model.training.scenes import Scenes, Truth

CLIP = ClipSpec(height=SIDE, width=SIDE, sample_rate=16_000)
BATCH = 32
SEED = 31_338
"""Of the weights and of the clips, which no evaluation and no shipped model has seen."""

HELD_OUT_EVERY = 8
"""One batch of so many has the combinations that models do not train on, so that they are recognised as well."""

NOISE = 0.06
"""Largest standard deviation of the noise that is added to the clips, which generated ones have as well."""


@dataclass(frozen=True)
class SceneAccuracy:
    """Fractions of kinds and attributes that are right, and F1 of the frames with events."""

    kind: float
    attributes: float
    events: float


def event_frames(times: Tensor, clip: ClipSpec) -> Tensor:
    """(clips, frames), bool: whether one of the `times` (clips, events) in seconds is within the frame."""
    frame = torch.where(times < clip.duration, times * clip.fps, -1.0).floor()
    return (frame[..., None] == torch.arange(clip.frames)).any(1)


def train_scenes(steps: int, report: Callable[[int, float, float], None]) -> tuple[SceneClassifier, SceneClassifier]:
    """Networks for sound and pictures after `steps` steps. `report` gets the step and the two losses, from time to
    time."""
    torch.manual_seed(SEED)
    networks = scene_networks()
    data = {split: Scenes(CLIP, SEED, split) for split in ("train", "held_out")}

    def losses(step: int) -> list[Tensor]:
        source = data["held_out" if step % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 else "train"]
        indexes = torch.arange(BATCH) + step * BATCH
        truth = source.truth(indexes)
        clips = source.batch(indexes).map(lambda value: value + NOISE * torch.rand(()) * torch.randn_like(value))
        times = (truth.heard, truth.seen)
        return [
            scene_loss(answers, truth, event_frames(own, CLIP))
            for answers, own in zip(answer(networks, clips, CLIP), times, strict=True)
        ]

    fit(networks, steps, losses, report)
    return networks


def answer(
    networks: tuple[SceneClassifier, SceneClassifier], clips: Latents, clip: ClipSpec
) -> tuple[Answers, Answers]:
    """The answers of the networks, from the sound and from the pictures of `clips`."""
    sound, pictures = networks
    frames = clips["video"].shape[1]
    return (
        sound(clips["audio"][:, 0], clip.sample_rate, frames),
        pictures(clips["video"], clip.sample_rate, frames),
    )


def scene_loss(answers: Answers, truth: Truth, events: Tensor) -> Tensor:
    """Cross-entropies of the kind, of the attributes that the kind has, and of the frames with events."""
    own = own_attributes(answers.attributes, truth.kind)
    there = truth.attributes >= 0
    attributes = binary_cross_entropy_with_logits(own[there], truth.attributes[there].float())
    return (
        cross_entropy(answers.kind, truth.kind)
        + attributes
        + binary_cross_entropy_with_logits(answers.events, events.float())
    )


def own_attributes(logits: Tensor, kind: Tensor) -> Tensor:
    """(clips, MOST_ATTRIBUTES): of `logits` (clips, kinds, MOST_ATTRIBUTES), those for `kind` (clips,)."""
    return logits[torch.arange(len(kind)), kind]


@torch.no_grad()
def scene_accuracy(
    networks: tuple[SceneClassifier, SceneClassifier], clips: int = 256
) -> tuple[SceneAccuracy, SceneAccuracy]:
    """From the sound and from the pictures, on clips that training has not seen."""
    data = Scenes(CLIP, SEED + 1, "train")
    indexes = torch.arange(clips)
    truth, made = data.truth(indexes), data.batch(indexes)
    there, found = truth.attributes >= 0, []
    for answers, times in zip(answer(networks, made, CLIP), (truth.heard, truth.seen), strict=True):
        right = (own_attributes(answers.attributes, truth.kind) > 0) == (truth.attributes > 0)
        said, wanted = answers.events > 0, event_frames(times, CLIP)
        f1 = 2 * float((said & wanted).sum()) / float(said.sum() + wanted.sum())
        kind = float((answers.kind.argmax(1) == truth.kind).float().mean())
        found.append(SceneAccuracy(kind, float(right[there].float().mean()), f1))
    return found[0], found[1]
