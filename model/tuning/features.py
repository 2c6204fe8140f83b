"""The features by which clips are compared with the teacher's: their values, and how their sound is heard.

Few steps leave a faint noise that hardly counts beside loud sounds, but is heard in the pauses between them. The
distance of values alone would let a solver add it; that of spectra with compressed magnitudes would not. Where a sound
begins counts most of all, and is a small part of both: the rise of the spectrum is a feature of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.networks.config import MODALITIES
from model.sampling.latents import Latents, State

WINDOW = 0.032
"""Seconds; a new window starts after half of it."""

QUIET = 0.01
"""Added to magnitudes, relative to a sine of full scale: what is below -40 dB counts little."""


def parts(state: State) -> dict[str, Tensor]:
    """The tensors of a state by modality; frames are `video`."""
    if not isinstance(state, Latents):
        return {"video": state}
    return {name: state[name] for name in MODALITIES if getattr(state, name) is not None}


@dataclass(frozen=True)
class Features:
    """Values by modality, and for sound also `spectrum` and `onsets`."""

    sample_rate: int

    def __call__(self, state: State) -> dict[str, Tensor]:
        found = parts(state)
        if "audio" not in found:
            return found
        spectrum = log_spectrum(found["audio"], self.sample_rate)
        return {**found, "spectrum": spectrum, "onsets": spectrum.diff(dim=-1).clamp(min=0).mean(2)}


def log_spectrum(audio: Tensor, sample_rate: int) -> Tensor:
    """(clips, channels, samples) → (clips, channels, frequencies, windows): natural logarithm of the magnitude plus
    QUIET."""
    size = max(2, round(WINDOW * sample_rate))
    window = torch.hann_window(size, dtype=audio.dtype, device=audio.device)
    spectrum = torch.stft(
        audio.flatten(0, 1), size, size // 2, size, window, center=True, pad_mode="constant", return_complex=True
    )
    return (2 * spectrum.abs() / window.sum() + QUIET).log().unflatten(0, audio.shape[:2])
