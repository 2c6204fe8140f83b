"""What a network predicts, and how ε̂ follows from it. Samplers only use ε̂.

With x_t = α x_0 + σ ε:

`eps` is the noise itself, as published.
`v` = α ε − σ x_0 (Salimans & Ho, Progressive distillation, ICLR 2022), so ε̂ = α v̂ + σ x_t. Near pure noise ε̂ is right
whatever the network predicts, and x̂_0 = α x_t − σ v̂ does not divide an error by a vanishing α.
`x0` is the clip, ε̂ = (x_t − α x̂_0) / σ. Clips fill a small part of the space of all values,
noise fills it whole: a network of patches and few channels can predict the former but not the latter (Li & He, Back to
basics: let denoising generative models denoise, 2025).
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.networks.config import PredictionType


def training_target(prediction: PredictionType, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The training target at x_t = α x_0 + σ ε; `alpha` and `sigma` broadcast against it."""
    if prediction == "eps":
        return eps
    return x0 if prediction == "x0" else alpha * eps - sigma * x0


MOST_WEIGHT = 25.0
"""Upper bound of the weight of x̂_0's squared error, reached at low noise."""


def loss_weight(prediction: PredictionType, sigma: Tensor) -> Tensor:
    """Weight of the prediction's squared error. An error of x̂_0 weighs as the equivalent error of v,
    ‖v − v̂‖² = ‖x_0 − x̂_0‖² / σ², up to MOST_WEIGHT."""
    return (1 / sigma.square()).clamp(max=MOST_WEIGHT) if prediction == "x0" else torch.ones_like(sigma)


def to_eps(prediction: PredictionType, predicted: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """ε̂ from what the network predicted at `x`; `alpha` and `sigma` > 0 broadcast against it."""
    if prediction == "eps":
        return predicted
    return (x - alpha * predicted) / sigma if prediction == "x0" else alpha * predicted + sigma * x
