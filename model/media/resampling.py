"""Resampling by a Kaiser-windowed sinc (torchaudio), of a whole sound or piece by piece."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import numpy as np
import torch
import torchaudio
from torch import Tensor

ZERO_CROSSINGS = 64
ROLLOFF = 0.9476
"""Width and pass band of the Kaiser-windowed sinc."""

MAX_RATIO = 2000
"""Largest term of a resampling ratio, which the filter's size follows. Odder rates take the nearest such ratio."""

BLOCK = 2**18
"""Samples that are converted at a time: more than a clip of one window has, which is thus converted as a whole."""


def resample(audio: Tensor, rate: int, new_rate: int) -> Tensor:
    """`audio` (channels, samples) at `rate` hertz → at `new_rate`, ceil(samples·new_rate/rate) samples."""
    if rate == new_rate:
        return audio
    ratio = _ratio(rate, new_rate)
    return torchaudio.functional.resample(
        audio,
        ratio.denominator,
        ratio.numerator,
        lowpass_filter_width=ZERO_CROSSINGS,
        rolloff=ROLLOFF,
        resampling_method="sinc_interp_kaiser",
    )


def _ratio(rate: int, new_rate: int) -> Fraction:
    """`new_rate` by `rate`, or the nearest ratio of small enough numbers."""
    if rate > new_rate:
        return Fraction(new_rate, rate).limit_denominator(MAX_RATIO)
    return 1 / Fraction(rate, new_rate).limit_denominator(MAX_RATIO)


class Resampler:
    """Resamples a sound that comes in pieces, `block` samples or more at a time. What it gives in all differs from
    `resample` of the whole only by rounding, and not at all for sounds of at most `block` samples."""

    def __init__(self, rate: int, new_rate: int, block: int) -> None:
        self._rates = rate, new_rate
        ratio = _ratio(rate, new_rate)
        self._period, self._new_period = ratio.denominator, ratio.numerator
        # Samples that the filter reaches on both sides, in whole periods: there both rates have a sample.
        reach = ZERO_CROSSINGS / (min(rate, new_rate) / rate * ROLLOFF) + 1
        self._margin = (ceil(reach / self._period) + 1) * self._period
        self._block = block
        self._held: np.ndarray | None = None
        self._channels = 0
        self._before = 0

    def add(self, audio: np.ndarray) -> np.ndarray:
        """What follows of the result, (channels, samples) float32, once `audio` (channels, samples) follows; empty
        while too little has come."""
        self._channels = len(audio)
        if self._rates[0] == self._rates[1]:
            return audio
        self._held = audio if self._held is None else np.concatenate([self._held, audio], axis=1)
        done = (self._held.shape[1] - self._before - self._margin) // self._period * self._period
        if self._held.shape[1] <= self._block or done <= 0:
            return audio[:, :0]
        result = self._resampled()[:, self._scaled(self._before) : self._scaled(self._before + done)]
        kept = max(0, self._before + done - self._margin)
        self._held, self._before = self._held[:, kept:].copy(), self._before + done - kept
        return result

    def finish(self) -> np.ndarray:
        """The end of the result."""
        if self._held is None:
            return np.empty((self._channels, 0), np.float32)
        return self._resampled()[:, self._scaled(self._before) :]

    def _resampled(self) -> np.ndarray:
        assert self._held is not None
        return resample(torch.from_numpy(self._held), *self._rates).numpy()

    def _scaled(self, samples: int) -> int:
        """Samples of the result in so many whole periods."""
        return samples // self._period * self._new_period
