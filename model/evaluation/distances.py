"""Distances between two sets of feature vectors: Fréchet and kernel (polynomial MMD).

Both take features (clips, features) of any floating type, compute in float64, and need at least two clips a side.

The Fréchet distance of two Gaussians with the sets' means and covariances (Dowson & Landau, 1982; Heusel et al., 2017)
is biased upwards by a term of order 1/clips: compare values of equal counts only. The kernel distance (Bińkowski et
al., 2018) is unbiased and may be negative.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from model.evaluation.intervals import Interval

RESAMPLES = 100
"""Bootstrap resamples of a distance."""

NORMAL_95 = 1.96
"""Standard deviations on either side of the mean that hold 95 % of a normal distribution."""

CHUNK = 1024
"""Rows of the kernel matrix that are in memory at the same time."""

Distance = Callable[[Tensor, Tensor], float]


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """|μx − μy|² + tr(Cx + Cy − 2 (Cx Cy)^½) with unbiased covariances.

    No matrix root is taken. With centred, scaled samples A and B, Cx = AᵀA and Cy = BᵀB, the nonzero eigenvalues of
    Cx Cy are those of (A Bᵀ)(A Bᵀ)ᵀ, so the trace of its root is the sum of the singular values of A Bᵀ. That holds for
    covariances of any rank, and no small negative eigenvalue can arise.
    """
    x, y = _checked(x, y)
    centred_x, centred_y = (_scaled(values) for values in (x, y))
    mean = (x.mean(0) - y.mean(0)).square().sum()
    trace = centred_x.square().sum() + centred_y.square().sum()
    root = torch.linalg.svdvals(_factor(centred_x) @ _factor(centred_y).mT).sum()
    return float(mean + trace - 2 * root)


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """Unbiased squared MMD with the kernel (x·y / features + 1)³."""
    x, y = _checked(x, y)
    within_x, within_y = (_kernel_sum(v, v) - float(_kernel(v.square().sum(1), v.shape[1]).sum()) for v in (x, y))
    m, n = len(x), len(y)
    return within_x / (m * (m - 1)) + within_y / (n * (n - 1)) - 2 * _kernel_sum(x, y) / (m * n)


def estimate(distance: Distance, x: Tensor, y: Tensor, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """`distance(x, y)` with an interval of 95 % for clips drawn anew on both sides.

    The interval is normal, with the standard deviation of bootstrap resamples around the value itself: percentiles of
    resamples would be shifted, since a resample repeats clips and so has fewer distinct ones.
    """
    x, y = _checked(x, y)
    draws = torch.Generator().manual_seed(seed)
    found = [distance(_resampled(x, draws), _resampled(y, draws)) for _ in range(resamples)]
    spread = NORMAL_95 * float(torch.tensor(found, dtype=torch.float64).std())
    value = distance(x, y)
    return Interval(value, value - spread, value + spread)


def _checked(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    for features in (x, y):
        if features.dim() != 2 or len(features) < 2:
            raise ValueError(f"features must be (clips, features) with at least 2 clips; got {tuple(features.shape)}")
        if not features.isfinite().all():
            raise ValueError("features must be finite")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"both sets must have the same features; got {x.shape[1]} and {y.shape[1]}")
    return x.double(), y.double()


def _scaled(x: Tensor) -> Tensor:
    """Centred samples A with AᵀA the unbiased covariance."""
    return (x - x.mean(0)) / (len(x) - 1) ** 0.5


def _factor(a: Tensor) -> Tensor:
    """A matrix R with RᵀR = AᵀA and as few rows as possible."""
    return torch.linalg.qr(a, mode="r").R if a.shape[0] > a.shape[1] else a


def _kernel(products: Tensor, features: int) -> Tensor:
    return (products / features + 1) ** 3


def _kernel_sum(x: Tensor, y: Tensor) -> float:
    return sum(float(_kernel(rows @ y.mT, x.shape[1]).sum()) for rows in x.split(CHUNK))


def _resampled(x: Tensor, draws: torch.Generator) -> Tensor:
    return x[torch.randint(0, len(x), (len(x),), generator=draws)]
