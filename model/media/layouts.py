"""Loudspeaker layouts, and how those that AAC does not have are mixed down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import av
import numpy as np

AAC_LAYOUTS = ("mono", "stereo", "3.0", "4.0", "5.0", "5.1", "7.1")
"""AAC's channel configurations 1 to 7, which every decoder knows."""

_BESIDE = {
    "FL": ("DL", "BIL", "BFL", "TFL"),
    "FR": ("DR", "BIR", "BFR", "TFR"),
    "FC": ("BFC", "TFC"),
    "LFE": ("LFE2",),
    "SL": ("SDL", "SSL", "TSL", "TTL"),
    "SR": ("SDR", "SSR", "TSR", "TTR"),
    "BL": ("TBL",),
    "BR": ("TBR",),
}
_BETWEEN = {
    "BC": ("BL", "BR"),
    "TBC": ("BL", "BR"),
    "TC": ("FL", "FR", "BL", "BR"),
    "FLC": ("FL", "FC"),
    "FRC": ("FR", "FC"),
    "WL": ("FL", "SL"),
    "WR": ("FR", "SR"),
}
NEAREST = {name: {seat: 1.0} for seat, names in _BESIDE.items() for name in names} | {
    name: dict.fromkeys(seats, len(seats) ** -0.5) for name, seats in _BETWEEN.items()
}
"""Loudspeakers that 7.1 lacks: those nearest to them, with gains that keep the power."""


@dataclass(frozen=True)
class Mixing:
    """How the channels of a sound become those of `layout`, one of AAC's. `mixes`: some of them are added, so that the
    result may exceed full scale. `apply` takes and gives (channels, samples) float32."""

    layout: str
    mixes: bool
    apply: Callable[[np.ndarray], np.ndarray]


def mixing(layout: str, channels: int) -> Mixing:
    """To the smallest of AAC's layouts with all loudspeakers of `layout`, which has `channels`.

    Loudspeakers that the source does not have are silent. Side speakers count as back ones where there are no others.
    Channels without names are taken for the usual loudspeakers; too many for that are mixed to mono. Loudspeakers that
    AAC does not have are mixed to the nearest, ambisonics to two cardioids that face left and right (ACN order, SN3D).
    """
    if layout.endswith(" channels"):
        layout = layout_of(channels)
    if layout.startswith("ambisonic"):
        return Mixing("stereo", True, lambda audio: _cardioids(audio, layout))
    names = [channel.name for channel in av.AudioLayout(layout).channels]
    if not (set(_seats("7.1")) | set(NEAREST)).issuperset(names):
        return Mixing("mono", True, lambda audio: audio.sum(axis=0, keepdims=True) / len(audio) ** 0.5)
    own = [{name: 1.0} for name in names]
    nearest = [NEAREST.get(name, {name: 1.0}) for name in names]
    carried, targets = _smallest(own) or _smallest(nearest) or ("7.1", nearest)
    seats = _seats(carried)
    matrix = np.zeros((len(seats), len(names)), np.float32)
    for channel, target in enumerate(targets):
        for seat, gain in target.items():
            matrix[seats.index(seat), channel] = gain
    mixed = bool((np.count_nonzero(matrix, axis=0) > 1).any() or (np.count_nonzero(matrix, axis=1) > 1).any())
    return Mixing(carried, mixed, lambda audio: np.ascontiguousarray(matrix @ audio, np.float32))


def _smallest(targets: list[dict[str, float]]) -> tuple[str, list[dict[str, float]]] | None:
    """The smallest layout with all loudspeakers that channels go to, and where they go in it."""
    if not {"BL", "BR"} & {seat for target in targets for seat in target}:
        back = {"SL": "BL", "SR": "BR"}
        targets = [{back.get(seat, seat): gain for seat, gain in target.items()} for target in targets]
    used = {seat for target in targets for seat in target}
    carried = next((layout for layout in AAC_LAYOUTS if used <= set(_seats(layout))), None)
    return None if carried is None else (carried, targets)


def layout_of(channels: int) -> str:
    """The library's name of the usual loudspeakers for so many channels."""
    usual = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
    return usual.get(channels, f"{channels} channels")


def _seats(layout: str) -> list[str]:
    return [channel.name for channel in av.AudioLayout(layout).channels]


def _cardioids(audio: np.ndarray, layout: str) -> np.ndarray:
    """Two cardioids of an ambisonic sound, with the channels that stand beside it added."""
    left_right = np.stack([audio[0] + audio[1], audio[0] - audio[1]]) / 2
    beside = sum(not name.startswith("AMBI") for name in _seats(layout))
    return left_right + audio[-beside:][:2] if beside else left_right
