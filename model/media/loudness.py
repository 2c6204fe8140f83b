"""Integrated loudness and true peak of a sound (ITU-R BS.1770-4, EBU R128), measured piece by piece.

The weighting filters are those of pyloudnorm. `Meter.integrated_loudness` of that library needs the whole sound as
float64 several times over and takes five channels at most; this meter needs one piece and takes any layout.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import av
import numpy as np
from pyloudnorm.iirfilter import IIRfilter
from scipy.signal import lfilter, resample_poly

HOP, HOPS = 0.1, 4
"""Seconds from one gating block to the next, and how many of them a block has."""

ABSOLUTE_GATE, RELATIVE_GATE = -70.0, -10.0
"""LUFS; LU below the loudness of the blocks above the absolute gate."""

OVERSAMPLING = 4
"""Of the true peak (BS.1770-4, annex 2)."""

MARGIN = 16
"""Samples beside a piece that its oversampling filter reads."""

PIECE = 2**18
"""Samples that are processed at once."""

_SURROUND = ("SL", "SR", "SDL", "SDR")
_BACK = ("BL", "BR")
_SILENT = ("LFE", "LFE2")


def channel_weights(layout: str) -> np.ndarray:
    """Weight of each channel's power (BS.1770-4, tables 3 and 4): surround +1.5 dB, low-frequency effects not at all.

    Back loudspeakers are the surround ones of layouts that have no others.
    """
    names = [channel.name for channel in av.AudioLayout(layout).channels]
    surround = _SURROUND if any(name in _SURROUND for name in names) else _BACK
    return np.array([0.0 if name in _SILENT else 1.41 if name in surround else 1.0 for name in names])


class LoudnessMeter:
    """Measures a sound that is added in pieces, of channels with these power `weights`, at `sample_rate` hertz."""

    def __init__(self, sample_rate: int, weights: np.ndarray) -> None:
        stages = [(4.0, 1 / math.sqrt(2), 1500.0, "high_shelf"), (0.0, 0.5, 38.0, "high_pass")]
        filters = [IIRfilter(gain, q, corner, sample_rate, kind) for gain, q, corner, kind in stages]
        self._filters = [each for each in filters if each.fc < 0.45 * sample_rate]  # lower rates: nothing to weight
        self._state = [np.zeros((len(weights), 2)) for _ in self._filters]
        self._weights, self._hop = weights, HOP * sample_rate
        self._position, self._energy = 0, np.zeros(0)
        self._peak, self._tail, self._begins = 0.0, np.zeros((len(weights), 0), np.float32), True

    def add(self, samples: np.ndarray) -> None:
        """Add the next `samples` (channels, samples), float."""
        if not samples.shape[1]:
            return
        self._add_peak(samples)
        filtered = samples.astype(np.float64)
        for number, stage in enumerate(self._filters):
            filtered, self._state[number] = lfilter(stage.b, stage.a, filtered, zi=self._state[number])
        power = self._weights @ np.square(filtered)
        hops = ((self._position + np.arange(len(power))) / self._hop).astype(int)
        starts = np.flatnonzero(np.diff(hops, prepend=-1))
        self._energy = np.concatenate([self._energy, np.zeros(max(0, hops[-1] + 1 - len(self._energy)))])
        self._energy[hops[starts]] += np.add.reduceat(power, starts)
        self._position += len(power)

    def integrated(self) -> float:
        """LUFS; -inf for silence. A sound shorter than a block is one block."""
        hops = max(round(self._position / self._hop), 1)
        energy = (
            self._energy[:hops] if len(self._energy) >= hops else np.pad(self._energy, (0, hops - len(self._energy)))
        )
        if hops <= HOPS:
            power = energy.sum(keepdims=True) / max(1, self._position)
        else:
            power = np.convolve(energy, np.ones(HOPS), "valid") / (HOPS * self._hop)
        with np.errstate(divide="ignore"):
            gated = power[_lufs(power) >= ABSOLUTE_GATE]
            if not len(gated):
                return -math.inf
            gate = _lufs(gated.mean()) + RELATIVE_GATE
            return float(_lufs(gated[_lufs(gated) > gate].mean()))

    def true_peak(self) -> float:
        """dBTP of all that was added; -inf for silence."""
        peak = max(self._peak, self._peak_of(self._tail, ends=True))
        return 20 * math.log10(peak) if peak else -math.inf

    def _add_peak(self, samples: np.ndarray) -> None:
        """The last MARGIN samples are judged with the next piece: where a sound is cut, oversampling overshoots."""
        piece = np.concatenate([self._tail, samples.astype(np.float32)], axis=1)
        self._peak = max(self._peak, self._peak_of(piece, ends=False))
        self._begins = self._begins and piece.shape[1] <= 2 * MARGIN
        self._tail = piece[:, -2 * MARGIN :]

    def _peak_of(self, piece: np.ndarray, ends: bool) -> float:
        """Largest magnitude of `piece` (channels, samples), between its samples too."""
        first = 0 if self._begins else MARGIN
        last = piece.shape[1] - (0 if ends else MARGIN)
        if first >= last:
            return 0.0
        oversampled = resample_poly(piece, OVERSAMPLING, 1, axis=1)[:, OVERSAMPLING * first : OVERSAMPLING * last]
        return float(np.abs(oversampled).max(initial=0.0))


def _lufs(power: np.ndarray) -> np.ndarray:
    return -0.691 + 10 * np.log10(power)


def pieces(length: int) -> Iterator[slice]:
    """Slices of at most PIECE that cover `length` samples."""
    for first in range(0, length, PIECE):
        yield slice(first, min(first + PIECE, length))
