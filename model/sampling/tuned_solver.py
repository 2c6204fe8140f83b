"""Solvers found by `duet tune` for one model, as its manifest holds them. Without torch: the API reads them too.

A solver is a grid of times and the weights of a linear multistep update in x̂_0 (`model.sampling.tuned`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

MAX_ORDER = 3
"""Predictions that an update may use."""

ROUNDING = 1e-6

Weights = tuple[tuple[float, ...], ...]
"""Of each step: the weights of the newest prediction and the ones before it. They sum to 1."""


@dataclass(frozen=True)
class TunedSolver:
    """`times`: where the network is evaluated, descending; after the last one the clip is clean. `weights`: by
    modality, one row a step; super-resolution has `video` only. `start`: by modality, a constant that stands for the
    prediction x̂_0 at the first time, which is not evaluated then; may be empty.

    `distance`: mean relative distance of clips from the teacher's clips of the same noise, noise that was not used for
    tuning; by sampler (this one: `tuned`) and feature: a modality, or `spectrum` or `onsets` of the sound.
    """

    times: tuple[float, ...]
    weights: dict[str, Weights]
    distance: dict[str, dict[str, float]]
    start: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.times or any(t <= s for t, s in pairwise(self.times)) or self.times[-1] < 0:
            raise ValueError(f"the times of a tuned solver must descend to 0 or more; got {self.times}")
        for name, rows in self.weights.items():
            fits = len(rows) == len(self.times) and all(
                1 <= len(row) <= min(k, MAX_ORDER) for k, row in enumerate(rows, start=1)
            )
            if not fits or any(not math.isclose(sum(row), 1.0, abs_tol=ROUNDING) for row in rows):
                raise ValueError(
                    f"the weights of a tuned solver must be a row for each time, with at most {MAX_ORDER} values that "
                    f"sum to 1, for no more predictions than there are; got {name}: {rows}"
                )
        if self.start and (set(self.start) != set(self.weights) or not all(map(math.isfinite, self.start.values()))):
            raise ValueError(f"the start of a tuned solver must be a number for each modality; got {self.start}")

    @property
    def evaluations(self) -> int:
        return len(self.times) - bool(self.start)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TunedSolver:
        """Raises KeyError, TypeError or ValueError for what `to_json` of a manifest does not write."""
        rows = {name: tuple(tuple(map(float, row)) for row in rows) for name, rows in data["weights"].items()}
        start = {name: float(value) for name, value in data.get("start", {}).items()}
        distance = {
            sampler: {name: float(value) for name, value in found.items()}
            for sampler, found in data["distance"].items()
        }
        return cls(tuple(map(float, data["times"])), rows, distance, start)

    def distances(self) -> dict[str, dict[str, float]]:
        """`distance` by modality, with the number of evaluations in the name of every sampler: `tuned 6`,
        `dpmpp_2m 20`. Only finite ones, to a thousandth."""
        finite = {
            sampler: {name: round(found[name], 3) for name in self.weights if math.isfinite(found.get(name, math.nan))}
            for sampler, found in self.distance.items()
        }
        return {
            f"tuned {self.evaluations}" if sampler == "tuned" else sampler: each for sampler, each in finite.items()
        }


@dataclass(frozen=True)
class TunedSolvers:
    """The solvers of one model, by number of evaluations; those of the base network also by `solver_name`. The hashes
    are those of the weights that they were tuned for. `teacher_steps`: of the sampler whose clips they match."""

    teacher_steps: int
    base_hash: str
    sr_hash: str | None = None
    base: dict[str, dict[int, TunedSolver]] = field(default_factory=dict)
    sr: dict[int, TunedSolver] = field(default_factory=dict)

    def find(self, kind: str, guidance: str | None) -> dict[int, TunedSolver]:
        """The solvers for a job, by number of evaluations; empty if there are none."""
        return self.base.get(solver_name(kind, guidance), {})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TunedSolvers:
        """Raises as TunedSolver.from_json."""

        def by_count(found: Mapping[str, Any]) -> dict[int, TunedSolver]:
            return {int(count): TunedSolver.from_json(solver) for count, solver in found.items()}

        return cls(
            data["teacher_steps"],
            data["base_hash"],
            data["sr_hash"],
            {name: by_count(found) for name, found in data["base"].items()},
            by_count(data["sr"]),
        )

    def to_json(self) -> dict[str, Any]:
        """Numbers are rounded to what float32 can distinguish."""
        return _rounded(asdict(self))


def solver_name(kind: str, guidance: str | None) -> str:
    """The name of the solvers for a kind of job and its guidance: `generate`, `v2a clean`."""
    return f"{kind} {guidance}" if guidance else kind


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.8g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value
