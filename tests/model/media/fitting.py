"""A whole sound in a layout of AAC, as `AacTrack` mixes it."""

from __future__ import annotations

import numpy as np

from model.media.aac import mixed_peak
from model.media.layouts import mixing


def fit_layout(audio: np.ndarray, layout: str) -> tuple[np.ndarray, str, bool]:
    """`audio` (channels, samples), the layout that carries it, and whether channels are mixed."""
    mix = mixing(layout, len(audio))
    return mix.apply(audio) / mixed_peak([audio], len(audio), layout), mix.layout, mix.mixes
