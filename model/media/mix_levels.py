"""How a new sound is mixed with the upload's own: the settings of a request, and what they came to.

Without numpy, because the API reads them too.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

MODES = ("replace", "under", "over")

APART = 12.0
"""Loudness units between the two sounds with `under` and `over`."""

TRUE_PEAK = -1.0
"""Default limit of the true peak, dBTP (EBU R128)."""

MIN_GAIN, MAX_GAIN = -60.0, 20.0
MIN_LOUDNESS, MAX_LOUDNESS = -60.0, -5.0
MIN_TRUE_PEAK, MAX_TRUE_PEAK = -20.0, 0.0


@dataclass(frozen=True)
class Mix:
    """Settings of a mix.

    `mode`: "replace" (the new sound alone), "under" (the new sound APART below the own one), "over" (the own one APART
    below the new one) or "gains" (`own` and `new`, in dB). `loudness`: integrated loudness of the result in LUFS; None
    is that of the own sound, and no change with "replace". `true_peak`: most of the result in dBTP; None is TRUE_PEAK,
    and no limit with "replace" as long as `loudness` is None.
    """

    mode: Literal["replace", "under", "over", "gains"] = "replace"
    own: float = 0.0
    new: float = 0.0
    loudness: float | None = None
    true_peak: float | None = None

    @property
    def keeps_own(self) -> bool:
        """Whether the own sound is heard in the result."""
        return self.mode != "replace"

    @property
    def changes_nothing(self) -> bool:
        """Whether the new sound stays as the model made it."""
        return self == REPLACE

    @classmethod
    def from_params(cls, mix: Any = "replace", loudness: float | None = None, true_peak: float | None = None) -> Mix:
        """The settings from parameters of the API, which `params` returns. Raises ValueError for an unknown `mix`."""
        if isinstance(mix, dict) and set(mix) == {"own", "new"}:
            return cls("gains", float(mix["own"]), float(mix["new"]), loudness, true_peak)
        if mix not in MODES:
            raise ValueError(f"mix must be one of {', '.join(MODES)}, or gains for own and new; got {mix!r}")
        return cls(mix, loudness=loudness, true_peak=true_peak)

    def params(self) -> dict[str, Any]:
        """The settings as parameters of the API; those that are not set are absent."""
        mix = {"own": self.own, "new": self.new} if self.mode == "gains" else self.mode
        given = {"mix": mix, "loudness": self.loudness, "true_peak": self.true_peak}
        return {name: value for name, value in given.items() if value is not None}


REPLACE = Mix()
"""The new sound alone, as the model made it."""


@dataclass(frozen=True)
class MixReport:
    """What a mix came to: gains of the two sounds in dB (None: the own sound is not heard), loudness (LUFS; None for
    silence) and true peak (dBTP) of the result, and by how many dB it is below its loudness target because of its true
    peak."""

    own_gain: float | None
    new_gain: float
    loudness: float | None
    true_peak: float | None
    lowered: float

    def to_dict(self) -> dict[str, Any]:
        return {name: None if value is None else round(value, 2) for name, value in asdict(self).items()}
