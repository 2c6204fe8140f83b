"""The parameters `mix`, `loudness` and `true_peak`: how a new sound is joined with the upload's own."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, WithJsonSchema

from model.media.mix_levels import (
    APART,
    MAX_GAIN,
    MAX_LOUDNESS,
    MAX_TRUE_PEAK,
    MIN_GAIN,
    MIN_LOUDNESS,
    MIN_TRUE_PEAK,
    MODES,
    TRUE_PEAK,
    Mix,
)

_GAIN = f"a number {MIN_GAIN:g} … {MAX_GAIN:g}, in dB"
ALLOWED = {
    "mix": f'one of {", ".join(MODES)}, or gains in dB such as {{"own": -6, "new": 0}}',
    "mix.own": _GAIN,
    "mix.new": _GAIN,
}
"""Allowed values of each field, for error messages."""

_GAIN_SCHEMA = {"type": "number", "minimum": MIN_GAIN, "maximum": MAX_GAIN, "examples": [-6], "description": _GAIN}
_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "string", "enum": list(MODES)},
        {
            "type": "object",
            "additionalProperties": False,
            "required": ["own", "new"],
            "properties": {"own": _GAIN_SCHEMA, "new": _GAIN_SCHEMA},
        },
    ]
}
"""Inlined, because references would not resolve where the schemas of parameters are embedded."""


class Gains(BaseModel):
    """Gains of the two sounds in dB."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    own: float = Field(ge=MIN_GAIN, le=MAX_GAIN)
    new: float = Field(ge=MIN_GAIN, le=MAX_GAIN)


def _kind(value: object) -> str:
    return "gains" if isinstance(value, dict | Gains) else "mode"


TAGS = ("gains", "mode")
"""Parts of an error's location that are no names of fields."""

_Mode = Annotated[Literal["replace", "under", "over"], Tag("mode")]
MixParameter = Annotated[_Mode | Annotated[Gains, Tag("gains")], Discriminator(_kind), WithJsonSchema(_SCHEMA)]
"""Type of the field in a route's parameters."""


class MixParameters(BaseModel):
    """Parameters of jobs that can mix a new sound with the upload's own."""

    mix: MixParameter = Field(
        default="replace",
        description="what becomes of the upload's own sound. replace: it is left out; under: the new sound lies "
        f"{APART:g} LU below it; over: the new sound lies {APART:g} LU above it; or gains in dB for both",
    )
    loudness: float | None = Field(
        default=None,
        ge=MIN_LOUDNESS,
        le=MAX_LOUDNESS,
        description="integrated loudness of the result in LUFS (EBU R128); if absent, that of the upload's own sound, "
        "with replace as the model makes it",
    )
    true_peak: float | None = Field(
        default=None,
        ge=MIN_TRUE_PEAK,
        le=MAX_TRUE_PEAK,
        description="limit of the true peak in dBTP; the whole is lowered to keep it, below `loudness` if need be; if "
        f"absent, {TRUE_PEAK:g}, and no limit for a sound that is neither mixed nor set to a loudness",
    )

    def mixing(self) -> Mix:
        """The settings as recorded."""
        mix = self.mix.model_dump() if isinstance(self.mix, Gains) else self.mix
        return Mix.from_params(mix, self.loudness, self.true_peak)
