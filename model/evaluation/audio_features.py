"""Detects sounds in clips of `bounce`: time, pitch and harmonics of each onset. Uses only the waveform, so it works on
generated clips."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import max_pool1d, pad

from model.training.bounce.scene import PITCHES

WINDOW, HOP, LAG = 0.032, 0.005, 0.020
"""Seconds: length of a spectrum, step between spectra, and distance of the two whose difference is the flux."""

BAND = (180.0, 4000.0)
"""Hertz; the hum is below."""

PAST = 0.080
"""Seconds: a frequency counts as new if it was quieter for this long. Two close tones beat, which is not an onset."""

LOUD = 30.0
"""Compression: magnitudes below about 1 / LOUD count linearly, larger ones logarithmically."""

THRESHOLD = 3.0
"""Flux above which a peak is an onset."""

APART = 0.045
"""Seconds; of two peaks closer than this, the higher one counts."""

TONE = 0.064
"""Seconds before and after an onset whose spectra are compared."""

PARTIAL = 0.35
"""A harmonic counts as present from this ratio to the fundamental: half of its amplitude in `bounce`."""

TIMBRES = {(False, False): 0, (True, False): 1, (False, True): 2, (True, True): 3}
"""Second and third harmonic → class, numbered as the hues of `bounce`."""


@dataclass(frozen=True)
class Onsets:
    """Onsets, one row each: `clip`, `time` in seconds, `pitch` in hertz, class of `timbre`.

    `clips` is the number of clips, `envelope` (clips, frames) the RMS above the hum during each frame.
    """

    clips: int
    clip: Tensor
    time: Tensor
    pitch: Tensor
    timbre: Tensor
    envelope: Tensor

    def in_frames(self, fps: int, frames: int) -> Tensor:
        """(clips, frames), bool: whether an onset is within the frame."""
        found = torch.zeros(self.clips, frames, dtype=torch.bool, device=self.clip.device)
        found[self.clip, frame_of(self.time, fps, frames)] = True
        return found


def frame_of(time: Tensor, fps: int, frames: int) -> Tensor:
    """The frame shown at a time in seconds."""
    return (time * fps).long().clamp(0, frames - 1)


def detect_onsets(audio: Tensor, sample_rate: int, fps: int) -> Onsets:
    """Detect the onsets in `audio` (clips, 1, samples)."""
    sound = audio[:, 0].float()
    clip, time = _onsets(sound, sample_rate)
    pitch, timbre = _tones(sound, sample_rate, clip, time)
    return Onsets(len(audio), clip, time, pitch, timbre, _envelope(sound, sample_rate, fps))


def flux(sound: Tensor, sample_rate: int) -> Tensor:
    """(clips, samples) → (clips, steps): rise of the spectrum over its maximum until LAG before.

    Spectral flux of compressed magnitudes (Bello et al., "A tutorial on onset detection in music signals", 2005).
    Step k is at k · HOP seconds; a sudden sound there peaks there.
    """
    size, hop, lag = (round(seconds * sample_rate) for seconds in (WINDOW, HOP, LAG))
    window = torch.hann_window(size, device=sound.device)
    spectrum = torch.stft(sound, size, hop, window=window, center=True, pad_mode="reflect", return_complex=True)
    magnitude = torch.log1p(LOUD * 2 * spectrum.abs() / window.sum())
    frequency = torch.linspace(0, sample_rate / 2, size // 2 + 1, device=sound.device)
    magnitude = magnitude[:, (frequency >= BAND[0]) & (frequency <= BAND[1])]
    steps, past = lag // hop, round(PAST / HOP)
    before = max_pool1d(pad(magnitude, (past - 1, 0), mode="replicate"), past, 1)
    grown = (magnitude[:, :, steps:] - before[:, :, :-steps]).clamp(min=0).sum(1)
    # In a window that extends over the end, the end looks like a click.
    heard = grown.shape[-1] - (size + 2 * lag) // (2 * hop)
    return pad(grown[:, :heard], (steps // 2 + 1, grown.shape[-1] - heard + steps - steps // 2 - 1))


def _onsets(sound: Tensor, sample_rate: int) -> tuple[Tensor, Tensor]:
    strength = flux(sound, sample_rate)
    reach = round(APART / HOP)
    highest = max_pool1d(strength[:, None], 2 * reach + 1, 1, reach)[:, 0]
    clip, step = ((strength == highest) & (strength > THRESHOLD)).nonzero(as_tuple=True)
    return clip, step * round(HOP * sample_rate) / sample_rate


def _tones(sound: Tensor, sample_rate: int, clip: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """Pitch and timbre of the new sound after each onset."""
    if len(clip) == 0:  # torch refuses an empty FFT
        return torch.zeros(0, device=sound.device), torch.zeros(0, dtype=torch.long, device=sound.device)
    size = round(TONE * sample_rate)
    fft = 8 * 2 ** (size - 1).bit_length()
    window = torch.hann_window(size, device=sound.device)
    around = pad(sound, (2 * size, 2 * size))
    start = (time * sample_rate).long() + 2 * size

    def spectrum(first: Tensor) -> Tensor:
        index = first[:, None] + torch.arange(size, device=sound.device)
        return torch.fft.rfft(around[clip[:, None], index] * window, fft).abs()

    gap = round(0.004 * sample_rate)
    new = (spectrum(start + gap) - spectrum(start - size - gap)).clamp(min=0)
    bin_hertz = sample_rate / fft
    low, high = (round(hertz / bin_hertz) for hertz in (PITCHES[0] * 0.94, min(PITCHES[1] * 1.06, 0.48 * sample_rate)))
    peak = new[:, low : high + 1].argmax(-1) + low
    strength = new.gather(1, peak[:, None])[:, 0]

    def has(number: int) -> Tensor:
        near = peak[:, None] * number + torch.arange(-8, 9, device=sound.device)
        value = new.gather(1, near.clamp(max=new.shape[1] - 1)).masked_fill(near >= new.shape[1], 0.0)
        return value.amax(-1) > PARTIAL * strength

    codes = torch.tensor([TIMBRES[second, third] for second in (False, True) for third in (False, True)])
    timbre = codes.to(sound.device)[2 * has(2).long() + has(3).long()]
    return peak * bin_hertz, timbre


def _envelope(sound: Tensor, sample_rate: int, fps: int) -> Tensor:
    """(clips, frames)"""
    spectrum = torch.fft.rfft(sound)
    frequency = torch.fft.rfftfreq(sound.shape[-1], 1 / sample_rate, device=sound.device)
    above = torch.fft.irfft(spectrum * (frequency >= BAND[0]), sound.shape[-1])
    return above.unflatten(1, (-1, sample_rate // fps)).square().mean(-1).sqrt()
