"""The mark in sound: noise with a period of one second, as loud as the sound hides it, less MARGIN decibels.

It lies between LOW and HIGH hertz, so a sample rate of 8 kHz keeps it. The detector works at that rate. It reduces each
bin of a short-time spectrum to its phase, adds up all periods, and finds the offset by cross-correlation with one.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from model.marking.keys import keyed_noise
from model.marking.masking import MaskingModel
from model.marking.significance import Finding, Score, judged, windows

LOW, HIGH = 250, 3500
RATE = 8000
"""Hertz of the detector, which is also the number of offsets that it tries."""

HALF_FRAME = 0.016
"""Seconds between two short-time spectra, each of twice that length."""

MARGIN = 5.0
"""Decibels below the masking threshold."""

LEAKAGE_GAIN = 4 / 3
"""Power of noise in the window of synthesis by that in its square, a Hann window, through which masking is seen: less
of a tone leaks into bins far from it."""

PARTS = 4
"""Parts of a frame. The quietest limits the mark, so that it is not heard before an onset."""

CONTEXT = 256
HOP = 64
"""Samples of the detector's frames, and from one to the next."""

BLOCK = 16
"""Seconds that the detector analyses together."""


class SoundMark:
    """Adds the mark of `key` to a mono sound at `sample_rate`, piece by piece."""

    def __init__(self, key: str, sample_rate: int) -> None:
        self._hop = round(HALF_FRAME * sample_rate)
        self._length = 2 * self._hop
        self._window = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self._length) / self._length))
        self._noise = _period(key, sample_rate)
        hertz = np.fft.rfftfreq(self._length, 1 / sample_rate)
        self._model = MaskingModel(hertz)
        bins = np.abs(np.fft.rfft(_frames(self._noise, self._length, self._hop) * self._window)) ** 2
        inside = (hertz >= LOW) & (hertz <= HIGH)
        self._power = bins[:, inside].mean() if inside.any() else 1.0
        self._held = np.zeros(self._hop)
        self._ended = np.zeros(self._hop)
        self._position = -self._hop

    def add(self, audio: np.ndarray) -> np.ndarray:
        """Append `audio` (1, samples); return the marked samples that are complete, (1, samples) float32."""
        self._held = np.concatenate([self._held, audio[0]])
        count = len(self._held) // self._hop - 1
        if count < 1:
            return np.empty((1, 0), np.float32)
        frames = _frames(self._held, self._length, self._hop)[:count]
        marks = self._marks(frames)
        first = np.concatenate([self._ended[None], marks[:-1, self._hop :]]) + marks[:, : self._hop]
        done = count * self._hop
        result = self._held[:done] + first.reshape(-1)
        skipped = max(0, -self._position)
        self._ended, self._held = marks[-1, self._hop :].copy(), self._held[done:].copy()
        self._position += done
        return result[None, skipped:].astype(np.float32)

    def finish(self) -> np.ndarray:
        """Return the rest of the marked sound, (1, samples) float32."""
        left = len(self._held) - max(0, -self._position)
        return self.add(np.zeros((1, 3 * self._hop)))[:, :left]

    def _marks(self, frames: np.ndarray) -> np.ndarray:
        """The mark in each of `frames` (frames, length), the first of which begins at the current position."""
        count = len(frames)
        indexes = self._position + np.arange((count + 1) * self._hop)
        noise = _frames(self._noise[indexes % len(self._noise)], self._length, self._hop)
        power = np.abs(np.fft.rfft(frames * self._window**2)) ** 2 * LEAKAGE_GAIN
        parts = np.square(frames[:, : self._length // PARTS * PARTS]).reshape(count, PARTS, -1).mean(2)
        onset = np.minimum(1, PARTS * parts.min(1) / (parts.mean(1) + np.finfo(np.float32).tiny))
        hidden = self._model.threshold(power) * onset[:, None] / 10 ** (MARGIN / 10)
        spectrum = np.fft.rfft(noise * self._window) * np.sqrt(hidden / self._power)
        return np.fft.irfft(spectrum, self._length) * self._window


def marked_sound(audio: np.ndarray, sample_rate: int, key: str) -> np.ndarray:
    """`audio` (1, samples) with the mark, float32. A second at a time: the spectra take 20 times the memory of the
    sound."""
    mark = SoundMark(key, sample_rate)
    pieces = [mark.add(audio[:, first : first + sample_rate]) for first in range(0, audio.shape[1], sample_rate)]
    return np.concatenate([*pieces, mark.finish()], axis=1)


class SoundDetector:
    """Looks for the mark of `key` in a mono sound at RATE that is added in pieces."""

    def __init__(self, key: str) -> None:
        self._spectrum = _spectrum(key)
        self._held = np.zeros(CONTEXT)
        self._seconds: list[np.ndarray] = []
        self._samples = 0

    def add(self, audio: np.ndarray) -> None:
        """The next samples, (samples,)."""
        self._held = np.concatenate([self._held, audio])
        self._samples += len(audio)
        size = BLOCK * RATE
        while len(self._held) >= size + 2 * CONTEXT:
            self._analyse(self._held[: size + 2 * CONTEXT])
            self._held = self._held[size:]

    def finish(self) -> Finding:
        """Raises ValueError if there was no sample."""
        if not self._samples:
            raise ValueError("no sound was added")
        left = len(self._held) - CONTEXT
        if left > 0:
            whole = -(-left // RATE) * RATE
            self._analyse(np.pad(self._held, (0, whole - left + CONTEXT)))
        end = self._samples / RATE
        scores = [
            Score(self._score(np.sum(self._seconds[first:last], axis=0)), float(first), min(float(last), end))
            for first, last in windows(len(self._seconds))
        ]
        return judged(scores, RATE)

    def _analyse(self, audio: np.ndarray) -> None:
        """Reduce whole seconds of sound, with CONTEXT samples on either side, to the phases of its spectrum."""
        window = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(CONTEXT) / CONTEXT))
        spectra = np.fft.rfft(_frames(audio, CONTEXT, HOP) * window)
        spectra /= np.maximum(np.abs(spectra), 1e-5)  # rounding errors of 16 bits are no phase
        hertz = np.fft.rfftfreq(CONTEXT, 1 / RATE)
        spectra[:, (hertz < LOW) | (hertz > HIGH)] = 0
        frames = np.fft.irfft(spectra, CONTEXT) * window
        flat = np.zeros(len(audio))
        for part in range(CONTEXT // HOP):  # frames of every fourth do not overlap
            chosen = frames[part :: CONTEXT // HOP].reshape(-1)
            flat[part * HOP : part * HOP + len(chosen)] += chosen
        self._seconds.extend(flat[CONTEXT:-CONTEXT].reshape(-1, RATE).astype(np.float32))

    def _score(self, second: np.ndarray) -> float:
        scores = np.fft.irfft(np.fft.rfft(second) * np.conj(self._spectrum), RATE)
        spread = np.sqrt(np.square(scores).mean())
        return float(scores.max() / spread) if spread > 0 else 0.0


@lru_cache(maxsize=4)
def _spectrum(key: str) -> np.ndarray:
    """Of one second of the noise at RATE, in bins of 1 Hz, of magnitude 0 or 1."""
    spectrum = np.fft.rfft(keyed_noise(key, "sound", RATE))
    hertz = np.arange(len(spectrum))
    return np.where((hertz >= LOW) & (hertz <= HIGH), spectrum / np.abs(spectrum), 0)


def _period(key: str, sample_rate: int) -> np.ndarray:
    """One second of the noise at `sample_rate`, of unit power, without what is above half of that rate."""
    spectrum, bins = _spectrum(key), sample_rate // 2 + 1
    kept = spectrum[: min(len(spectrum), bins - 1)]
    noise = np.fft.irfft(np.pad(kept, (0, bins - len(kept))), sample_rate)
    power = np.square(noise).mean()
    return noise / np.sqrt(power) if power > 0 else noise


def _frames(samples: np.ndarray, length: int, hop: int) -> np.ndarray:
    """(frames, length): all whole frames, `hop` samples apart."""
    return np.lib.stride_tricks.sliding_window_view(samples, length)[::hop]
