"""The parameters `retake`, `extend` and `region`: what an edit of an upload makes anew."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from model.media.edits import MAX_SPANS, MIN_SIDE, MIN_SPAN, Edit
from model.request import MAX_DURATION

_SECONDS = f"a number 0 … {MAX_DURATION:g}, in seconds"
_SPAN = f"[start, end] in seconds, at least {MIN_SPAN:g} s apart, after the end of the one before"
_SPANS = f"a list of 1 … {MAX_SPANS} spans [start, end] in seconds, in order and apart"
_SHARE = "a number 0 … 1, as a share of the picture as it is displayed"
_SIDE = f"a number {MIN_SIDE:g} … 1, as a share of the picture as it is displayed"
ALLOWED = {
    "retake": 'an object such as {"audio": [[1.2, 2.0]], "video": [[1.0, 1.5]]}',
    "retake.audio": _SPANS,
    "retake.video": _SPANS,
    "retake.audio.*": _SPAN,
    "retake.video.*": _SPAN,
    "extend": 'an object such as {"before": 1, "after": 2}, in seconds',
    "extend.before": _SECONDS,
    "extend.after": _SECONDS,
    "region": 'an object such as {"x": 0.5, "y": 0.5, "width": 0.3, "height": 0.3, "start": 0, "end": 1.5}',
    "region.x": _SHARE,
    "region.y": _SHARE,
    "region.width": _SIDE,
    "region.height": _SIDE,
    "region.start": _SECONDS,
    "region.end": _SECONDS,
    "region.audio": "one of keep, new",
}
"""Allowed values of each field, for error messages. `*` is any index."""

NAMES = ("retake", "extend", "region")


def _spans(spans: list[Any]) -> list[Any]:
    """Raises ValueError unless they are in order and apart."""
    if any(later[0] < earlier[1] for earlier, later in pairwise(spans)):
        raise ValueError("spans overlap")
    return spans


def _span(span: tuple[float, float]) -> tuple[float, float]:
    if span[1] - span[0] < MIN_SPAN:
        raise ValueError("the span is empty")
    return span


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


_Second = Annotated[float, Field(ge=0, le=MAX_DURATION)]
_Span = Annotated[
    list[_Second], Field(min_length=2, max_length=2), AfterValidator(lambda span: list(_span((span[0], span[1]))))
]
_List = Annotated[list[_Span], Field(min_length=1, max_length=MAX_SPANS), AfterValidator(_spans)]


class RetakeParameters(_Part):
    """Spans that are made anew."""

    audio: _List | None = None
    video: _List | None = None


class ExtendParameters(_Part):
    """Seconds that are added."""

    before: _Second = 0.0
    after: _Second = 0.0


class RegionParameters(_Part):
    """A part of the picture that is made anew."""

    x: float | None = Field(default=None, ge=0, le=1)
    y: float | None = Field(default=None, ge=0, le=1)
    width: float | None = Field(default=None, ge=MIN_SIDE, le=1)
    height: float | None = Field(default=None, ge=MIN_SIDE, le=1)
    start: _Second = 0.0
    end: _Second | None = None
    audio: Literal["keep", "new"] = "keep"


def _number(least: float, most: float, description: str, **more: Any) -> dict[str, Any]:
    return {"type": "number", "minimum": least, "maximum": most, "description": description, **more}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    found = {"type": "object", "additionalProperties": False, "minProperties": 1}
    return {"anyOf": [{**found, "maxProperties": len(properties), "properties": properties}, {"type": "null"}]}


_ITEM = {
    "type": "array",
    "items": {"type": "number", "minimum": 0, "maximum": MAX_DURATION},
    "minItems": 2,
    "maxItems": 2,
}
_LIST = {"type": "array", "items": _ITEM, "minItems": 1, "maxItems": MAX_SPANS, "examples": [[[1.2, 2.0]]]}
_ADDED = {"minimum": 0, "maximum": MAX_DURATION, "type": "number", "default": 0}
_RETAKE = _object({name: _LIST | {"description": f"{name}: {_SPANS}"} for name in ("audio", "video")})
_EXTEND = _object(
    {
        "before": _ADDED | {"description": "seconds added before the beginning, at most DUET_MAX_OUTPUT_S"},
        "after": _ADDED | {"description": "seconds added after the end, at most DUET_MAX_OUTPUT_S"},
    }
)
_REGION = _object(
    {
        "x": _number(0, 1, "left side, as a share of the width; left out with a mask", examples=[0.5]),
        "y": _number(0, 1, "upper side, as a share of the height; left out with a mask", examples=[0.5]),
        "width": _number(MIN_SIDE, 1, "share of the width; left out with a mask", examples=[0.3]),
        "height": _number(MIN_SIDE, 1, "share of the height; left out with a mask", examples=[0.3]),
        "start": _number(0, MAX_DURATION, "from so many seconds on", default=0),
        "end": _number(0, MAX_DURATION, "to so many seconds; the upload's end if absent"),
        "audio": {
            "type": "string",
            "enum": ["keep", "new"],
            "default": "keep",
            "description": "whether the sound of that time is made with it",
        },
    }
)
"""Inlined, because references would not resolve where the schemas of parameters are embedded."""


class EditFields(BaseModel):
    """Exactly one of these."""

    retake: Annotated[RetakeParameters | None, WithJsonSchema(_RETAKE)] = Field(
        default=None, description="spans of sound and pictures to make anew in place; if absent, another edit is given"
    )
    extend: Annotated[ExtendParameters | None, WithJsonSchema(_EXTEND)] = Field(
        default=None, description="seconds of pictures and sound to add; if absent, another edit is given"
    )
    region: Annotated[RegionParameters | None, WithJsonSchema(_REGION)] = Field(
        default=None,
        description="part of the picture to make anew: a rectangle, or what is white in the part `mask` of the form; "
        "if absent, another edit is given",
    )

    def edit(self) -> Edit:
        """What is asked for, before the upload is known."""
        given = {name: getattr(self, name) for name in NAMES}
        return Edit.from_params({name: each.model_dump(exclude_none=True) for name, each in given.items() if each})
