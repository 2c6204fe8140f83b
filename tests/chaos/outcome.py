"""The plan of a chaos run and its outcome."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

RECOVERY_LIMIT = 30.0
"""Seconds: the demand on the 99th percentile of recovery."""


@dataclass(frozen=True)
class Plan:
    """`jobs` and `faults` (how many by name, see `tests.chaos.faults.FAULTS`) are spread over `seconds`. Everything
    must be over `patience` seconds later. The other times are in seconds too, least and most where there are two."""

    seed: int
    jobs: int
    seconds: float
    faults: Mapping[str, int]
    poison: int
    raising: int
    lease: float
    unavailable_seconds: float = 4.0
    refusing_seconds: tuple[float, float] = (6.0, 15.0)
    stopped_seconds: float = 20.0
    step_seconds: float = 0.25
    patience: float = 150.0


@dataclass
class Outcome:
    """Counts of a run. `recovery`: seconds from each fault until its work went on, by the fault's name."""

    accepted: int = 0
    completed: int = 0
    failed_by_design: int = 0
    failed_otherwise: int = 0
    lost: int = 0
    duplicates: int = 0
    stuck: int = 0
    idle: int = 0
    incomplete: int = 0
    webhooks: int = 0
    webhooks_missing: int = 0
    interrupted: int = 0
    doubled: int = 0
    refused: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    recovery: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    most_runs: int = 0
    most_runs_alone_of_poison: int = 0
    made_twice: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def percentile(self, percent: int) -> float:
        """Of all recoveries, in seconds."""
        every = [seconds for each in self.recovery.values() for seconds in each]
        return statistics.quantiles(every, n=100, method="inclusive")[percent - 1] if len(every) > 1 else sum(every)

    def violations(self) -> list[str]:
        """The demands that the run did not meet."""
        zero = {
            "lost": self.lost,
            "visible duplicates": self.duplicates,
            "stuck": self.stuck,
            "processes that did nothing": self.idle,
            "incomplete": self.incomplete,
            "failed otherwise": self.failed_otherwise,
            "webhooks that never came": self.webhooks_missing,
        }
        found = [*self.problems, *(f"{name}: {count}" for name, count in zero.items() if count)]
        if (seconds := self.percentile(99)) > RECOVERY_LIMIT:
            found.append(f"recovery p99 is {seconds:.1f} s")
        if self.most_runs_alone_of_poison > 3:
            found.append(f"a poison job ran {self.most_runs_alone_of_poison} times alone")
        return found

    def table(self, titles: Mapping[str, str]) -> str:
        """In Markdown. `titles`: of the faults, by name."""
        rows: list[tuple[str, object]] = [
            ("accepted", self.accepted),
            ("completed", self.completed),
            ("failed by design", self.failed_by_design),
            ("failed otherwise", self.failed_otherwise),
            ("lost", self.lost),
            ("visible duplicates", self.duplicates),
            ("stuck", self.stuck),
            ("processes that did nothing after the faults", self.idle),
            ("completed with a file missing or of another attempt", self.incomplete),
            ("webhooks received", self.webhooks),
            ("webhooks that never came", self.webhooks_missing),
            ("messages delivered twice", self.doubled),
            ("submissions refused with 503 or 507 or cut off, then repeated", self.refused),
            ("runs interrupted by a killed worker", self.interrupted),
            ("recovery p50", f"{self.percentile(50):.1f} s"),
            ("recovery p99", f"{self.percentile(99):.1f} s"),
            ("most runs of one job", self.most_runs),
            ("most runs alone of a poison job", self.most_runs_alone_of_poison),
            ("results made a second time after they were complete", self.made_twice),
            ("duration", f"{self.seconds:.0f} s"),
        ]
        lines = ["| what | count |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
        lines += ["", "| fault | recoveries | median | longest |", "|---|---|---|---|"]
        for name, title in titles.items():
            if times := self.recovery.get(name):
                lines.append(f"| {title} | {len(times)} | {statistics.median(times):.1f} s | {max(times):.1f} s |")
            elif name in self.skipped:
                lines.append(f"| {title} | skipped: {self.skipped[name]} | | |")
        return "\n".join(lines)
