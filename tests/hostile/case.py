"""One thing that somebody may send, and what may come of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["v2a", "a2v"]

ACCEPTED = "accepted"
REFUSALS = {
    "malformed": 400,
    "too_large": 413,
    "unsupported_media": 415,
    "empty_file": 422,
    "undecodable": 422,
    "no_video_track": 422,
    "no_audio_track": 422,
    "too_short": 422,
    "too_long": 422,
    "too_many_pixels": 422,
}
"""Every code with which an upload may be refused, and its status, as the API's contract has them."""

ANY = frozenset({ACCEPTED, *REFUSALS})


@dataclass(frozen=True)
class Case:
    """`data` sent as a file called `filename`; `answers`: what the API may say, a code or ACCEPTED."""

    family: str
    name: str
    data: bytes
    kind: Kind = "v2a"
    filename: str = "clip.mp4"
    answers: frozenset[str] = ANY

    def __str__(self) -> str:
        return f"{self.family}/{self.name}"


def only(*answers: str) -> frozenset[str]:
    """For `Case.answers`."""
    assert set(answers) <= ANY
    return frozenset(answers)
