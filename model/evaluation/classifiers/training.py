"""Trains the classifiers on `bounce`, in minutes on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from model.evaluation.classifiers.networks import Classifier, PictureClassifier, SoundClassifier, targets
from model.networks.config import PRESETS
from model.training.bounce import Bounce

CLIP = PRESETS["pocket"].clip
BATCH = 16
RATE = 3e-3
SEED = 31_337
"""Of the weights and of the clips, which no evaluation and no shipped model has seen."""


@dataclass(frozen=True)
class Accuracy:
    """F1 of the classes of all frames, at the threshold ½."""

    sound: float
    pictures: float


def train(steps: int, report: Callable[[int, float, float], None]) -> tuple[SoundClassifier, PictureClassifier]:
    """Both networks after `steps` steps. `report` is called with the step and the two losses, from time to time."""
    torch.manual_seed(SEED)
    sound, pictures = SoundClassifier(), PictureClassifier()
    data = Bounce(CLIP, SEED, "train")

    def losses(step: int) -> list[Tensor]:
        answers = _logits(sound, pictures, data, torch.arange(BATCH) + step * BATCH)
        return [binary_cross_entropy_with_logits(logits, wanted) for logits, wanted in answers]

    fit((sound, pictures), steps, losses, report)
    return sound, pictures


def fit(
    networks: Sequence[nn.Module],
    steps: int,
    losses_of: Callable[[int], list[Tensor]],
    report: Callable[[int, float, float], None],
) -> None:
    """Minimise the sum of the losses, one for each network, that `losses_of` gives for each step. The networks are then
    ready for use."""
    parameters = [weight for network in networks for weight in network.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for step in range(steps):
        losses = losses_of(step)
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            report(step + 1, *(loss.item() for loss in losses))
    for network in networks:
        network.eval()


@torch.no_grad()
def accuracy(sound: Classifier, pictures: Classifier, clips: int = 256) -> Accuracy:
    """On clips that training has not seen."""
    scores = []
    for logits, wanted in _logits(sound, pictures, Bounce(CLIP, SEED + 1, "train"), torch.arange(clips)):
        found, there = logits > 0, wanted > 0
        scores.append(2 * float((found & there).sum()) / float(found.sum() + there.sum()))
    return Accuracy(*scores)


def _logits(
    sound: Classifier, pictures: Classifier, data: Bounce, indexes: Tensor
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    scene = data.scene(indexes)
    clips = data.render(scene)
    wanted = targets(scene, CLIP.frames)
    rate, frames = CLIP.sample_rate, CLIP.frames
    return (sound(clips["audio"][:, 0], rate, frames), wanted), (pictures(clips["video"], rate, frames), wanted)
