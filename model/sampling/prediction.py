"""What a network predicts, and how noise is made of it: everything that samples asks for ε̂.

With x_t = α x_0 + σ ε:

`eps` is the noise itself, as published.
`v` = α ε − σ x_0 (Salimans & Ho, Progressive distillation, ICLR 2022), so that ε̂ = α v̂ + σ x_t. Where there is hardly
anything but noise, ε̂ is then right without any effort of the network's, and x̂_0 = α x_t − σ v̂ is not an error of ε̂
divided by a vanishing α.
`x0` is the clip itself, ε̂ = (x_t − α x̂_0) / σ. Clips are a small part of all that pixels and samples can be, and noise
is not: a network of patches and few channels can say the one, and loses its way in the other (Li & He, Back to basics:
let denoising generative models denoise, 2025).
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.networks.config import PredictionType


def training_target(prediction: PredictionType, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """What the network is to predict of x_t = α x_0 + σ ε; `alpha` and `sigma` broadcast against it."""
    if prediction == "eps":
        return eps
    return x0 if prediction == "x0" else alpha * eps - sigma * x0


MOST_WEIGHT = 25.0
"""Of x̂_0's squared error where there is next to no noise."""


def loss_weight(prediction: PredictionType, sigma: Tensor) -> Tensor:
    """What the squared error of the prediction counts. That of x̂_0 is weighed as the error of v that it stands for,
    ‖v − v̂‖² = ‖x_0 − x̂_0‖² / σ², up to MOST_WEIGHT."""
    return (1 / sigma.square()).clamp(max=MOST_WEIGHT) if prediction == "x0" else torch.ones_like(sigma)


def to_eps(prediction: PredictionType, predicted: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """ε̂ from what the network predicted at `x`; `alpha` and `sigma` > 0 broadcast against it."""
    if prediction == "eps":
        return predicted
    return (x - alpha * predicted) / sigma if prediction == "x0" else alpha * predicted + sigma * x
