"""A study: clips under random names, raters under random ids, and the answers to its questions."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from service.study.assignment import assign

SCALES = ("video", "sound", "match")
"""Questions answered with 1 (bad) … 5 (excellent), as in ITU-T P.910: the picture, the sound, how well they match."""

LOWEST, HIGHEST = 1, 5

MAX_RATERS = 1000
MAX_CLIPS = 2000

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
"""Names of studies."""

TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")
"""The secret of a link: 256 bits, base64url."""


@dataclass(frozen=True)
class Answers:
    """A rater's answers about one clip. `real`: judged to be real, not made by a model."""

    video: int
    sound: int
    match: int
    real: bool


@dataclass(frozen=True)
class Vote:
    """Answers, and how often the rater has changed them: a vote replaces those with a lower revision."""

    answers: Answers
    revision: int

    def to_json(self) -> str:
        return json.dumps({**asdict(self.answers), "revision": self.revision})

    @classmethod
    def from_json(cls, text: bytes) -> Vote:
        values: dict[str, Any] = json.loads(text)
        return cls(Answers(values["video"], values["sound"], values["match"], values["real"]), values["revision"])


@dataclass(frozen=True)
class StudyClip:
    """One clip. `id` is random and the name of its file; `label` is the folder's, `source` the file it was made from.
    An attention check has the answers that it asks for, and no label."""

    id: str
    label: str
    source: str
    expected: Answers | None = None


@dataclass(frozen=True)
class Rater:
    """One place in a study. `id` is random and appears in results; `token` is the secret of the link; `clips` are the
    ids of the clips to rate, in order."""

    id: str
    token: str
    clips: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """`repeats`: raters of each clip. `real`: the labels of real clips. `folder`: prefix of its files in storage.
    `created_at`: seconds since 1970."""

    name: str
    created_at: float
    folder: str
    repeats: int
    real: tuple[str, ...]
    clips: tuple[StudyClip, ...]
    raters: tuple[Rater, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """In the order in which they were given."""
        return tuple(dict.fromkeys(clip.label for clip in self.clips if clip.expected is None))

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: bytes) -> Study:
        values: dict[str, Any] = json.loads(text)
        clips = (
            StudyClip(**clip | {"expected": clip["expected"] and Answers(**clip["expected"])})
            for clip in values["clips"]
        )
        raters = (Rater(rater["id"], rater["token"], tuple(rater["clips"])) for rater in values["raters"])
        return cls(**values | {"real": tuple(values["real"]), "clips": tuple(clips), "raters": tuple(raters)})


def new_clip_id() -> str:
    """128 random bits: says nothing about the clip, and cannot be guessed."""
    return secrets.token_hex(16)


def clip_key(folder: str, clip_id: str) -> str:
    """Storage key of a clip's file."""
    return f"{folder}/{clip_id}.mp4"


def new_raters(count: int, clips: Iterable[StudyClip], repeats: int) -> tuple[Rater, ...]:
    """`count` raters with new ids and tokens (256 random bits), each with its share of the clips and every attention
    check."""
    ids = [secrets.token_hex(6) for _ in range(count)]
    by_label: dict[str, list[str]] = {}
    checks: list[str] = []
    for clip in clips:
        (checks if clip.expected else by_label.setdefault(clip.label, [])).append(clip.id)
    plan = assign(list(by_label.values()), checks, ids, repeats)
    return tuple(Rater(each, secrets.token_urlsafe(32), plan[each]) for each in ids)
