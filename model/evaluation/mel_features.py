"""Statistics of log-mel spectrograms: hand-made features of sounds, for distances that need no trained network."""

from __future__ import annotations

import torch
import torchaudio.functional
from torch import Tensor

WINDOW, HOP = 0.032, 0.010
"""Seconds."""

MELS = 32
BAND = (60.0, 4000.0)
"""Hertz; all sounds that are compared have a sample rate of at least twice the upper end, or end below it together."""

QUIET = 1e-4
"""Added to magnitudes relative to a sine of full scale, so that silence is finite: -80 dB."""

FEATURES = 3 * MELS


def mel_features(sound: Tensor, sample_rate: int, quiet: float = QUIET) -> Tensor:
    """(clips, samples) in [-1, 1] → (clips, FEATURES): of each band's log magnitude the mean over time, the standard
    deviation, and the mean rise from window to window, which onsets make."""
    level = log_mel(sound, sample_rate, quiet)
    rises = level.diff(dim=2).clamp(min=0)
    return torch.cat([level.mean(2), level.std(2), rises.mean(2)], dim=1)


def log_mel(sound: Tensor, sample_rate: int, quiet: float = QUIET) -> Tensor:
    """(clips, samples) → (clips, MELS, windows): natural logarithm of the magnitude in each mel band plus
    `quiet`."""
    size, hop = round(WINDOW * sample_rate), round(HOP * sample_rate)
    window = torch.hann_window(size, device=sound.device)
    fft = 2 ** (4 * size - 1).bit_length()  # the lowest bands are narrower than a frequency of the window
    spectrum = torch.stft(sound.float(), fft, hop, size, window, center=True, pad_mode="constant", return_complex=True)
    power = (2 * spectrum.abs() / window.sum()).square()
    top = min(BAND[1], sample_rate / 2)
    bands = torchaudio.functional.melscale_fbanks(fft // 2 + 1, BAND[0], top, MELS, sample_rate, norm="slaney")
    bands = bands / bands.sum(0).clamp(min=1e-9)  # a mean over the band
    return ((power.mT @ bands.to(sound.device)).sqrt() + quiet).log().mT
