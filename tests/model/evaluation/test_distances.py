"""Fréchet and kernel distance against closed forms of Gaussians, and against a matrix root taken in another way."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from model.evaluation.distances import estimate, frechet_distance, kernel_distance

DIMENSIONS = 6


def drawn(count: int, dimensions: int = DIMENSIONS, seed: int = 0) -> Tensor:
    return torch.randn(count, dimensions, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def with_moments(mean: Tensor, covariance: Tensor, count: int, seed: int) -> Tensor:
    """Samples whose own mean and unbiased covariance are exactly these."""
    noise = drawn(count, len(mean), seed)
    noise -= noise.mean(0)
    noise = noise @ torch.linalg.inv(torch.linalg.cholesky(noise.mT @ noise / (count - 1)).mT)
    return noise @ torch.linalg.cholesky(covariance).mT + mean


def covariance(seed: int) -> Tensor:
    factor = drawn(DIMENSIONS, seed=seed)
    return factor @ factor.mT + 0.1 * torch.eye(DIMENSIONS)


def by_matrix_root(x: Tensor, y: Tensor) -> float:
    """The distance as usually computed: a root of the product of the covariances."""
    a, b = (np.cov(values.double().numpy(), rowvar=False) for values in (x, y))
    difference = (x.double().mean(0) - y.double().mean(0)).numpy()
    return float(difference @ difference + np.trace(a + b) - 2 * np.trace(scipy.linalg.sqrtm(a @ b).real))


def test_frechet_distance_of_gaussians_with_common_axes() -> None:
    first, second = torch.tensor([1.0, 4.0, 9.0]).double(), torch.tensor([4.0, 4.0, 1.0]).double()
    mean = torch.tensor([1.0, -2.0, 0.0]).double()
    x = with_moments(torch.zeros(3).double(), first.diag(), 50, seed=1)
    y = with_moments(mean, second.diag(), 70, seed=2)
    expected = 5 + float((first.sqrt() - second.sqrt()).square().sum())
    assert frechet_distance(x, y) == pytest.approx(expected, abs=1e-9)


def test_frechet_distance_of_any_gaussians_is_that_of_the_matrix_root() -> None:
    x = with_moments(torch.ones(DIMENSIONS).double(), covariance(3), 40, seed=4)
    y = with_moments(torch.zeros(DIMENSIONS).double(), covariance(5), 90, seed=6)
    assert frechet_distance(x, y) == pytest.approx(by_matrix_root(x, y), abs=1e-8)
    assert frechet_distance(y, x) == pytest.approx(frechet_distance(x, y), abs=1e-9)


def test_frechet_distance_of_a_set_to_itself_is_zero_even_with_fewer_clips_than_features() -> None:
    x = drawn(12, 400) * torch.logspace(-6, 3, 400, dtype=torch.float64)
    assert abs(frechet_distance(x, x)) < 1e-9 * float(x.var(0).sum())


def test_frechet_distance_of_rank_deficient_covariances() -> None:
    """All clips of one set on a line, of the other on a line at an angle θ: tr (Cx Cy)^½ = σx σy |cos θ|."""
    angle = 0.4
    x = torch.outer(
        with_moments(torch.zeros(1).double(), torch.eye(1).double() * 4, 30, 1)[:, 0], torch.eye(400)[0].double()
    )
    direction = torch.zeros(400).double()
    direction[0], direction[7] = math.cos(angle), math.sin(angle)
    y = torch.outer(with_moments(torch.zeros(1).double(), torch.eye(1).double() * 9, 20, 2)[:, 0], direction)
    assert frechet_distance(x, y) == pytest.approx(4 + 9 - 2 * 2 * 3 * math.cos(angle), abs=1e-9)


def test_kernel_distance_counts_pairs_of_different_clips() -> None:
    x, y = drawn(5, 3, seed=1).float(), drawn(4, 3, seed=2).float() + 1

    def kernel(a: Tensor, b: Tensor) -> float:
        return (float(a.double() @ b.double()) / 3 + 1) ** 3

    expected = (
        sum(kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j) / 20
        + sum(kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j) / 12
        - 2 * sum(kernel(a, b) for a in x for b in y) / 20
    )
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-12)


def test_kernel_distance_of_shifted_gaussians() -> None:
    """N(0, I) against N(μ, I). With M = |μ|² the product u = x·y has the moments E u = M, E u² = d + 2M + M² and
    E u³ = M³ + 6M² + (3d + 6) M within the shifted set; between the sets 0, d + M and 0."""
    d, shift = 4, 0.8
    m = shift**2 * d
    shifted = 1 + 3 * m / d + 3 * (d + 2 * m + m**2) / d**2 + (m**3 + 6 * m**2 + (3 * d + 6) * m) / d**3
    expected = shifted + (1 + 3 / d) - 2 * (1 + 3 * (d + m) / d**2)
    x, y = drawn(4_000, d, 1), drawn(4_000, d, 2) + shift
    assert kernel_distance(x, y) == pytest.approx(expected, rel=0.02)


def test_kernel_distance_has_no_bias_where_the_frechet_distance_has_one() -> None:
    sets = [(drawn(30, 8, 2 * seed), drawn(30, 8, 2 * seed + 1)) for seed in range(300)]
    kernel = torch.tensor([kernel_distance(x, y) for x, y in sets])
    assert abs(float(kernel.mean())) < 3 * float(kernel.std()) / len(sets) ** 0.5
    assert torch.tensor([frechet_distance(x, y) for x, y in sets]).min() > 0


def test_intervals_hold_the_distance_of_the_distributions_as_often_as_they_say() -> None:
    shift, inside = 3.0, 0
    for seed in range(60):
        x, y = drawn(200, 1, 2 * seed), drawn(200, 1, 2 * seed + 1) + shift
        found = estimate(frechet_distance, x, y, seed)
        inside += found.low <= shift**2 <= found.high
    assert inside >= 52


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(1, 3), torch.zeros(4, 3), "at least 2 clips"),
        (torch.zeros(4, 3), torch.zeros(4, 2), "same features"),
        (torch.full((4, 3), float("nan")), torch.zeros(4, 3), "finite"),
        (torch.zeros(4), torch.zeros(4), "at least 2 clips"),
    ],
)
def test_features_that_have_no_distance_are_refused(x: Tensor, y: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frechet_distance(x, y)
