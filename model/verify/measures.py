"""What the paper's measures compute: Fréchet and kernel distance, the frames that I3D sees, and I3D's tensors."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from model.evaluation.distances import frechet_distance, kernel_distance
from model.evaluation.published.i3d import I3D, preprocess
from model.verify.folder import GoldenSet
from model.verify.forward import check_layout
from model.verify.report import Case, Check, compare, provides

I3D_LAYOUT = "statedict_i3d"
FRAMES, RESIZED = "fvd_preprocess/in_btchw_uint8", "fvd_preprocess/out_bcthw_res32"
FEATURES = ("metrics/X", "metrics/Y")


@provides("misc")
def measure_cases(golden: GoldenSet, device: torch.device) -> Iterator[Case]:
    if all(name in golden for name in FEATURES):
        yield Case(f"{golden.name}/metrics", FEATURES, partial(_check_distances, golden, device))
    if FRAMES in golden:
        yield Case(f"{golden.name}/fvd_preprocess", (FRAMES, RESIZED), partial(_check_frames, golden, device))


@provides("state_dict")
def i3d_cases(golden: GoldenSet, device: torch.device) -> Iterator[Case]:
    if golden.name == I3D_LAYOUT:
        yield Case(golden.name, golden.expectations, partial(_check_i3d, golden))


def _check_distances(golden: GoldenSet, device: torch.device) -> Iterator[Check]:
    x, y = (golden[name].to(device) for name in FEATURES)
    # Recorded in float32 with two singular value decompositions; ours take none of a covariance, in float64.
    for name, actual, tolerance in (
        ("frechet", frechet_distance(x, y), 1e-4),
        ("kvd", kernel_distance(x, y), 1e-6),
    ):
        expected = torch.tensor(golden.value("metrics", name), dtype=torch.float64)
        yield compare(f"{golden.name}/metrics/{name}", torch.tensor(actual).double(), expected, tolerance, 0.0)


def _check_frames(golden: GoldenSet, device: torch.device) -> Iterator[Check]:
    expected = golden[RESIZED]
    actual = preprocess(golden[FRAMES].to(device), expected.shape[-1])
    yield compare(f"{golden.name}/fvd_preprocess", actual, expected, 1e-5, 0.0)


def _check_i3d(golden: GoldenSet) -> Iterator[Check]:
    with torch.device("meta"):
        yield check_layout(golden, {name: tuple(value.shape) for name, value in I3D().state_dict().items()})
