"""Whose votes count: those of raters who have submitted and passed the attention checks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from service.study.record import Rater, Study
from service.study.store import Ballots


class Standing(StrEnum):
    """Of a rater."""

    COUNTED = "counted"
    FAILED = "failed"
    """Answered more attention checks wrongly than allowed."""
    UNSUBMITTED = "unsubmitted"
    UNUSED = "unused"
    """Has not rated any clip."""


@dataclass(frozen=True)
class RaterResult:
    """A rater's progress. `wrong`: attention checks answered wrongly."""

    rater: Rater
    rated: int
    wrong: int
    standing: Standing


def rater_results(study: Study, ballots: Ballots, allowed: int = 0) -> list[RaterResult]:
    """All raters, in the order of the links. `allowed`: attention checks that a rater may answer wrongly."""
    expected = {clip.id: clip.expected for clip in study.clips if clip.expected is not None}
    results = []
    for rater in study.raters:
        votes = ballots.votes.get(rater.id, {})
        wrong = sum(vote.answers != expected[clip] for clip, vote in votes.items() if clip in expected)
        if wrong > allowed:
            standing = Standing.FAILED
        elif rater.id in ballots.submitted:
            standing = Standing.COUNTED
        else:
            standing = Standing.UNSUBMITTED if votes else Standing.UNUSED
        results.append(RaterResult(rater, len(votes), wrong, standing))
    return results
