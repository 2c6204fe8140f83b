"""The mark in pictures: one faint static pattern in all frames, of between LOW and HIGH cycles a picture.

Static, because a video encoder keeps what does not move, and a cut in time does not matter then. The pattern is defined
in shares of the picture, so scaling does not matter either. All frequencies have the same amplitude and a phase that
the key sets. The detector compares phases only (phase-only matched filtering, as in Kalker et al., "A video
watermarking system for broadcast monitoring", 1999).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import scipy.fft
import torch
import torch.nn.functional as F

from model.marking.keys import keyed_noise
from model.marking.significance import Finding, Score, judged, windows

LOW, HIGH = 8, 28
"""Cycles a picture, in any direction."""

GRID = 64
"""Rows and columns that the detector scales every picture to; HIGH is below its Nyquist frequency, 32."""

TORUS = 2 * GRID
"""The pattern repeats after two pictures, so that the detector can shift it cyclically by less than a picture."""

LEAST_SIDE = 64
"""Pixels: smaller pictures cannot hold the pattern and get no mark."""

PSNR = 42.2
"""Decibels. The pattern's power is the same in every picture, because it is added as whole numbers."""

SMALLEST = 54
"""Rows and columns of the grid for the smallest part of a picture that is searched: 84 % of either side."""

LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class PictureMark:
    """Adds the mark of `key` to pictures."""

    def __init__(self, key: str) -> None:
        self._spectrum = _spectrum(key)
        self._patterns: dict[tuple[int, int, float], np.ndarray] = {}

    def applied(self, pictures: np.ndarray) -> np.ndarray:
        """`pictures` (…, height, width, 3) uint8 RGB with the mark; the same where a side is below LEAST_SIDE."""
        height, width = pictures.shape[-3:-1]
        return added(pictures, self.pattern(height, width)[..., None]) if can_hold(height, width) else pictures

    def pattern(self, height: int, width: int, span: float = 255.0) -> np.ndarray:
        """What is added to pictures of this size, (height, width) int16, of the power that PSNR allows where black and
        white are `span` apart."""
        kind = height, width, span
        if kind not in self._patterns:
            self._patterns[kind] = self._drawn(height, width, span)
        return self._patterns[kind]

    def _drawn(self, height: int, width: int, span: float) -> np.ndarray:
        pattern = (_waves(height) @ self._spectrum @ _waves(width).T).real
        power = span**2 / 10 ** (PSNR / 10)
        low, high = 0.0, 10 * np.sqrt(power) / pattern.std()
        for _ in range(40):  # rounding changes the power, so search for the gain
            gain = (low + high) / 2
            low, high = (gain, high) if np.square(np.rint(gain * pattern)).mean() < power else (low, gain)
        return np.rint(low * pattern).astype(np.int16)


class PictureDetector:
    """Looks for the mark of `key` in frames that are added in order."""

    def __init__(self, key: str) -> None:
        whole = np.fft.ifftshift(_spectrum(key))
        self._spectrum = whole[:, : TORUS // 2 + 1].astype(np.complex64)  # as `rfft2` orders it
        self._deviation = float(np.sqrt(np.count_nonzero(whole)))
        self._sums: list[np.ndarray] = []
        self._counts: list[int] = []
        self._end = 0.0

    def add(self, picture: np.ndarray, start: float, end: float) -> None:
        """The next frame, (height, width, 3) uint8 RGB, upright, shown in [start, end) seconds."""
        second = max(0, int(start))
        while len(self._sums) <= second:
            self._sums.append(np.zeros((GRID, GRID)))
            self._counts.append(0)
        self._sums[second] += _scaled(picture @ LUMA)
        self._counts[second] += 1
        self._end = max(self._end, end)

    def finish(self) -> Finding:
        """Raises ValueError if there was no frame."""
        if not self._sums:
            raise ValueError("no frame was added")
        scores = []
        for first, last in windows(len(self._sums)):
            count = sum(self._counts[first:last])
            value = self._score(np.sum(self._sums[first:last], axis=0) / count) if count else 0.0
            scores.append(Score(value, float(first), min(float(last), self._end)))
        return judged(scores, TESTS)

    def _score(self, picture: np.ndarray) -> float:
        """The greatest score of the mean picture (GRID, GRID) of some frames over all crops."""
        best = 0.0
        seen = picture.astype(np.float32)
        for rows in range(SMALLEST, GRID + 1):
            tall = _resizing(rows) @ seen
            parts = np.zeros((GRID - SMALLEST + 1, TORUS, TORUS), np.float32)
            for number, columns in enumerate(range(SMALLEST, GRID + 1)):
                part = tall @ _resizing(columns).T
                parts[number, :rows, :columns] = (part - part.mean()) * _window(rows, columns)
            spectra = scipy.fft.rfft2(parts)
            phases = np.conj(spectra) * self._spectrum / (np.abs(spectra) + 1e-4)
            cosines = scipy.fft.irfft2(phases, (TORUS, TORUS)) * TORUS**2
            for number, columns in enumerate(range(SMALLEST, GRID + 1)):
                best = max(best, float(cosines[number, : GRID - rows + 1, : GRID - columns + 1].max()))
        return best / self._deviation


TESTS = ((GRID - SMALLEST + 1) * (GRID - SMALLEST + 2) // 2) ** 2
"""Alignments of one picture: of every size of the part, every shift."""


def added(pictures: np.ndarray, pattern: np.ndarray) -> np.ndarray:
    """The sum, uint8, clipped."""
    marked = pictures + pattern
    return np.clip(marked, 0, 255, out=marked).astype(np.uint8)


def can_hold(height: int, width: int) -> bool:
    """Whether pictures of this size get the mark."""
    return min(height, width) >= LEAST_SIDE


@lru_cache(maxsize=4)
def _spectrum(key: str) -> np.ndarray:
    """The pattern's spectrum (TORUS, TORUS) with the zero frequency in the middle, of magnitude 0 or 1."""
    noise = keyed_noise(key, "pictures", TORUS * TORUS).reshape(TORUS, TORUS)
    spectrum = np.fft.fftshift(np.fft.fft2(noise))
    cycles = (np.arange(TORUS) - TORUS // 2) / 2
    radius = np.hypot(cycles[:, None], cycles[None])
    return np.where((radius >= LOW) & (radius <= HIGH), spectrum / np.abs(spectrum), 0)


def _waves(count: int) -> np.ndarray:
    """(count, TORUS) complex: every frequency of the torus at the middles of `count` pixels of one picture."""
    cycles = (np.arange(TORUS) - TORUS // 2) / 2
    place = (np.arange(count) + 0.5) / count - 0.5 / GRID  # the middle of the grid's first pixel is the origin
    return np.exp(2j * np.pi * place[:, None] * cycles[None])


def _scaled(luma: np.ndarray) -> np.ndarray:
    """(height, width) → (GRID, GRID)."""
    picture = torch.from_numpy(np.ascontiguousarray(luma, np.float32))[None, None]
    return F.interpolate(picture, (GRID, GRID), mode="bicubic", antialias=True)[0, 0].numpy()


@lru_cache(maxsize=GRID)
def _resizing(count: int) -> np.ndarray:
    """(count, GRID): the matrix that scales GRID pixels to `count`."""
    identity = torch.eye(GRID)[None, None]
    return F.interpolate(identity, (count, GRID), mode="bicubic", antialias=True)[0, 0].numpy()


@lru_cache(maxsize=GRID * GRID)
def _window(rows: int, columns: int) -> np.ndarray:
    """Fades out the outer eighth of either side, so that the border of the picture has no spectrum of its own."""

    def one(count: int) -> np.ndarray:
        place = np.arange(count) + 0.5
        return np.sin(np.pi / 2 * np.clip(np.minimum(place, count - place) / (count / 8), 0, 1)) ** 2

    return np.outer(one(rows), one(columns)).astype(np.float32)
