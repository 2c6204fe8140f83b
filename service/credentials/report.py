"""The report on what a file says of its making. Every text in it comes from the file, so none of it is certain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["valid", "untrusted", "tampered", "unreadable", "none"]
"""`valid`: signed by a trusted certificate. `untrusted`: unchanged since it was signed, but by an unknown certificate.
`tampered`: the file or its statement was changed afterwards. `unreadable`: damaged, or too much work. `none`: the file
has no credentials."""


@dataclass(frozen=True)
class Action:
    """Something that was done. `action` and `source_type` are terms of C2PA and IPTC."""

    action: str | None
    source_type: str | None = None
    description: str | None = None
    when: str | None = None


@dataclass(frozen=True)
class Ingredient:
    """A file that was used. `credentials`: those that it had at that time."""

    title: str | None
    media_type: str | None
    relationship: str | None
    credentials: Verdict


@dataclass(frozen=True)
class Model:
    """The model that made it, if Duet did."""

    name: str | None
    weights_sha256: str | None


@dataclass(frozen=True)
class Report:
    """`generated`: whether a model made `all` or `part` of the file; None if it does not say.

    `problems`: codes of the C2PA specification. `comment`: Duet's comment in an mp4, which anybody can write.
    """

    credentials: Verdict = "none"
    generated: Literal["all", "part"] | None = None
    made_by: str | None = None
    signed_by: str | None = None
    signed_at: str | None = None
    model: Model | None = None
    actions: Sequence[Action] = ()
    ingredients: Sequence[Ingredient] = ()
    problems: Sequence[str] = ()
    comment: str | None = None
