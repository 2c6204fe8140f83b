"""Colour map of the spectrogram: from near black over violet and orange to a warm white. Lightness rises evenly, so
that the picture can be read in grey and by colour-blind people.

The ramp is laid out in OKLab (Björn Ottosson, "A perceptual color space for image processing", 2020).
"""

from __future__ import annotations

from functools import cache

import numpy as np

LIGHTNESS = (0.17, 0.97)
"""OKLab's L of the quietest and the loudest colour, a little above that of the page behind."""

HUES = (280.0, 455.0)
"""Degrees: violet, on over red and orange to a pale yellow."""

CHROMA = 0.17
"""Chroma in the middle of the ramp; the ends are nearly grey."""

_TO_LMS = np.array(
    [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
)
_LMS_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


@cache
def ramp(steps: int) -> np.ndarray:
    """(steps, 3) uint8 sRGB, from quiet to loud. The array is shared: do not write to it."""
    along = np.linspace(0, 1, steps)
    lightness = LIGHTNESS[0] + (LIGHTNESS[1] - LIGHTNESS[0]) * along
    hue = np.radians(HUES[0] + (HUES[1] - HUES[0]) * along)
    wanted = CHROMA * np.sin(np.pi * along) ** 0.75 + 0.03
    # Reduce the chroma of colours outside sRGB until they fit, by bisection.
    low, high = np.zeros(steps), wanted
    for _ in range(12):
        middle = (low + high) / 2
        rgb = _linear_rgb(lightness, middle, hue)
        shown = ((rgb >= 0) & (rgb <= 1)).all(axis=1)
        low, high = np.where(shown, middle, low), np.where(shown, high, middle)
    colours: np.ndarray = np.round(255 * _gamma(_linear_rgb(lightness, low, hue).clip(0, 1))).astype(np.uint8)
    colours.setflags(write=False)
    return colours


def _linear_rgb(lightness: np.ndarray, chroma: np.ndarray, hue: np.ndarray) -> np.ndarray:
    """OKLCh → (steps, 3) linear sRGB, below 0 or above 1 where a screen cannot show it."""
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=1)
    return (lab @ _TO_LMS.T) ** 3 @ _LMS_TO_RGB.T


def _gamma(linear: np.ndarray) -> np.ndarray:
    """Linear light → sRGB's code values (IEC 61966-2-1)."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
