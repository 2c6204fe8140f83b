"""The statement in a file: who made it, with which model, and which parts are made and which are the upload's.

Terms: C2PA specification 2.2, assertions `c2pa.actions.v2` and `c2pa.ingredient.v3`; digital source types by IPTC.
The statement has no personal data: neither file names nor the job's owner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from service.version import version

GENERATION = "org.duet-av.generation"
"""Label of Duet's own assertion: job kind and model."""

UPLOAD = "upload"
"""Label that links the actions to the ingredient."""

_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/"
TRAINED = _SOURCE_TYPE + "trainedAlgorithmicMedia"
COMPOSITE = _SOURCE_TYPE + "compositeWithTrainedAlgorithmicMedia"


class Origin(StrEnum):
    """Where one modality of a file comes from."""

    MADE = "made"
    OWN = "own"
    PARTLY_MADE = "partly made"


@dataclass(frozen=True)
class Span:
    """A part that is made, in seconds of the file."""

    modality: str
    start: float
    end: float


@dataclass(frozen=True)
class Made:
    """What a file contains: the origin of its picture and of its sound, None for those that it does not have."""

    title: str
    media_type: str
    video: Origin | None = None
    audio: Origin | None = None
    spans: Sequence[Span] = ()

    @property
    def whole(self) -> bool:
        """Whether all of the file is made."""
        return {self.video, self.audio} <= {Origin.MADE, None}

    @property
    def untouched(self) -> bool:
        """Whether nothing in it is made."""
        return {self.video, self.audio} <= {Origin.OWN, None}


def relationship(made: Made) -> str:
    """What the upload is to the file: the parent of what keeps a part of it, or an input of what is all new."""
    return "inputTo" if made.whole else "parentOf"


def claim(made: Made, generation: Mapping[str, Any], has_upload: bool) -> dict[str, Any]:
    """The definition of the manifest, for the library's builder. `generation`: content of Duet's own assertion."""
    agent = {"name": "Duet", "version": version()}
    return {
        "claim_generator_info": [agent],
        "title": made.title,
        "format": made.media_type,
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": _actions(made, agent, has_upload)}},
            {"label": GENERATION, "data": dict(generation)},
        ],
    }


def _actions(made: Made, agent: dict[str, str], has_upload: bool) -> list[dict[str, Any]]:
    upload = {"parameters": {"ingredientIds": [UPLOAD]}} if has_upload else {}
    if made.whole:
        created = {"action": "c2pa.created", "softwareAgent": agent, "digitalSourceType": TRAINED}
        return [created | upload]
    opened = {"action": "c2pa.opened"} | upload
    if made.untouched:
        copied = {"action": "c2pa.transcoded", "softwareAgent": agent, "description": "The used part, as PCM"}
        return [opened, copied]
    return [opened, *(_edited(span, agent) for span in made.spans or _whole_modalities(made))]


def _edited(part: Span | str, agent: dict[str, str]) -> dict[str, Any]:
    edited: dict[str, Any] = {"action": "c2pa.edited", "softwareAgent": agent, "digitalSourceType": COMPOSITE}
    if isinstance(part, str):
        return edited | {"description": f"The {part} is made by the model"}
    time = {"type": "npt", "start": f"{part.start:.3f}", "end": f"{part.end:.3f}"}
    text = f"The {part.modality} from {part.start:.3f} s to {part.end:.3f} s is made by the model"
    return edited | {"description": text, "changes": [{"region": [{"type": "temporal", "time": time}]}]}


def _whole_modalities(made: Made) -> list[str]:
    named = {"picture": made.video, "sound": made.audio}
    return [name for name, origin in named.items() if origin in (Origin.MADE, Origin.PARTLY_MADE)]
