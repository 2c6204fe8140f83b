"""Verification cases, their checks, and the report."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from model.verify.folder import FolderError, GoldenSet


@dataclass(frozen=True)
class Check:
    """One comparison: the largest absolute error, the absolute tolerance it is held to, and whether it passed.

    `informative` checks are shown but never fail the run: numbers known to be wrong, or decided by rounding.
    """

    case: str
    error: float
    tolerance: float
    passed: bool
    informative: bool = False
    note: str = ""


@dataclass(frozen=True)
class Case:
    """A named case (`set/case`), the expectations of the set that it covers, and its checks."""

    name: str
    covers: tuple[str, ...]
    run: Callable[[], Iterable[Check]]


Provider = Callable[[GoldenSet, torch.device], Iterable[Case]]
PROVIDERS: dict[str, list[Provider]] = {}
"""Functions that make cases from a set, by its kind. Filled by `provides`."""


def provides(kind: str) -> Callable[[Provider], Provider]:
    """Register a function that makes cases of the sets of `kind`. Several may share a kind."""

    def register(provider: Provider) -> Provider:
        PROVIDERS.setdefault(kind, []).append(provider)
        return provider

    return register


def compare(
    case: str, actual: Tensor, expected: Tensor, atol: float, rtol: float, informative: bool = False, note: str = ""
) -> Check:
    """Check |actual − expected| ≤ atol + rtol · |expected| for every element. Another shape, NaN or infinity fails."""
    actual, expected = actual.detach().cpu().double(), expected.double()
    if actual.shape != expected.shape:
        shapes = f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
        return Check(case, float("inf"), atol, False, informative, shapes)
    error = (actual - expected).abs()
    within = bool((error <= atol + rtol * expected.abs()).all())  # false for NaN
    worst = error.max().item() if error.numel() else 0.0
    return Check(case, worst, atol, within, informative, note)


@dataclass(frozen=True)
class Report:
    """All checks, and the names of expectations that no case covers."""

    checks: tuple[Check, ...]
    not_covered: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed or check.informative for check in self.checks)

    def to_json(self) -> str:
        def strict(check: Check) -> dict[str, Any]:  # JSON has no infinity and no NaN
            entry = asdict(check)
            return {**entry, "error": check.error if abs(check.error) < float("inf") else None}

        data = {
            "passed": self.passed,
            "checks": [strict(c) for c in self.checks],
            "not_covered": list(self.not_covered),
        }
        return json.dumps(data, indent=2)

    def show(self, console: Console) -> None:
        table = Table("case", "max abs error", "tolerance", "pass", "note")
        for check in self.checks:
            verdict = "informative" if check.informative else "pass" if check.passed else "MISS"
            table.add_row(check.case, f"{check.error:.2e}", f"{check.tolerance:.1e}", verdict, check.note)
        console.print(table)
        if self.not_covered:
            console.print(f"not covered ({len(self.not_covered)}):", *self.not_covered, sep="\n  ")
        counted = [check for check in self.checks if not check.informative]
        console.print(f"{sum(check.passed for check in counted)} of {len(counted)} checks pass")


def verify(
    sets: Iterable[GoldenSet], device: torch.device, pattern: str = "*", progress: Callable[[str], None] | None = None
) -> Report:
    """Run all cases whose name matches the shell-style `pattern`."""
    checks: list[Check] = []
    not_covered: list[str] = []
    for golden in sets:
        cases = [case for provider in PROVIDERS.get(golden.kind, ()) for case in provider(golden, device)]
        covered = {name for case in cases for name in case.covers}
        not_covered += [f"{golden.name}/{name}" for name in golden.expectations if name not in covered]
        for case in cases:
            if fnmatch.fnmatch(case.name, pattern):
                if progress:
                    progress(case.name)
                checks += _run(case)
    return Report(tuple(checks), tuple(not_covered))


def _run(case: Case) -> Iterator[Check]:
    try:
        yield from case.run()
    except FolderError:
        raise
    except ValueError as error:  # weights or inputs that the network refuses: its message is the finding
        yield Check(case.name, float("inf"), 0.0, False, note=str(error))
