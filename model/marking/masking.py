"""How much noise a sound hides: a simple psychoacoustic model after Johnston ("Transform coding of audio signals using
perceptual noise criteria", 1988).

The power of each half Bark is spread to its neighbours. Noise is hidden if it is some decibels lower: 5.5 below a
masker that is noise, and 14.5 and the number of the Bark below a tone. The flatness of the spectrum says which it is.
"""

from __future__ import annotations

import numpy as np

BANDS_PER_BARK = 2
UPWARDS, DOWNWARDS = 10.0, 27.0
"""Decibels a Bark by which masking falls towards higher and lower frequencies."""

NOISE_OFFSET, TONE_OFFSET = 5.5, 14.5
FLATNESS_OF_TONES = -60.0
"""Decibels."""


class MaskingModel:
    """Masking in spectra whose bins are at `hertz`."""

    def __init__(self, hertz: np.ndarray) -> None:
        bark = 13 * np.arctan(0.00076 * hertz) + 3.5 * np.arctan((hertz / 7500) ** 2)  # Zwicker and Terhardt, 1980
        _, self._band = np.unique((bark * BANDS_PER_BARK).astype(int), return_inverse=True)
        member = (np.arange(self._band.max() + 1)[:, None] == self._band).astype(float)
        self._mean = (member / member.sum(1, keepdims=True)).T
        self._bark = bark @ self._mean
        distance = self._bark[:, None] - self._bark[None]  # of the masked from the masker
        spread = 10 ** (-np.where(distance >= 0, UPWARDS * distance, -DOWNWARDS * distance) / 10)
        self._spread = (spread / spread.sum(1, keepdims=True)).T

    def threshold(self, power: np.ndarray) -> np.ndarray:
        """Power of noise in each bin that `power` (frames, bins) just hides, the same within a band."""
        tiny = np.finfo(np.float32).tiny
        spread = (power @ self._mean) @ self._spread
        flatness = np.log10(power + tiny).mean(1) - np.log10(power.mean(1) + tiny)
        tonality = np.clip(10 * flatness / FLATNESS_OF_TONES, 0, 1)[:, None]
        offset = tonality * (TONE_OFFSET + self._bark) + (1 - tonality) * NOISE_OFFSET
        return (spread * 10 ** (-offset / 10))[:, self._band]
