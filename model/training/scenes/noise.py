"""Primitives of the sounds, for all samples at once: noise with a given spectrum, envelopes, bursts and tones.

Sounds are (batch, samples).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

TOP = 0.47
"""Highest frequency of a tone, as a fraction of the sample rate."""


@dataclass(frozen=True)
class Ear:
    """What sounds are made from: the `times` of the samples in seconds (samples,), the spectrum of white noise of each
    clip (batch, frequencies), and the frequencies in hertz."""

    times: Tensor
    spectrum: Tensor
    hertz: Tensor
    sample_rate: int

    def noise(self, low: Tensor | float, high: Tensor | float, tilt: float = 0.0) -> Tensor:
        """Noise of RMS 1 between `low` and `high` hertz (numbers or (batch,)), 12 dB per octave beyond, with `tilt` dB
        per octave within."""
        low, high = (each[:, None] if isinstance(each, Tensor) else each for each in (low, high))
        hertz = self.hertz.clamp(min=1.0)
        response = 1 / ((1 + (low / hertz).square()) * (1 + (hertz / high).square()))
        if tilt:
            response = response * (hertz / 1000) ** (tilt / (20 * math.log10(2)))
        sound = torch.fft.irfft(self.spectrum * response, len(self.times))
        return sound / sound.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-9)

    def since(self, events: Tensor) -> Tensor:
        """Seconds since each of `events` (batch, events), (batch, events, samples)."""
        return self.times - events[..., None]

    def bursts(self, events: Tensor, attack: float, decay: Tensor | float, loudness: Tensor) -> Tensor:
        """Sum of envelopes (batch, samples) that rise for `attack` seconds and decay to 1/e in `decay`; (batch, events)
        or numbers."""
        since = self.since(events)
        if isinstance(decay, Tensor):
            decay = decay[..., None] if decay.ndim == 2 else decay[:, None, None]
        shape = (since / attack).clamp(0, 1) * torch.exp(-since.clamp(min=0) / decay)
        return (shape * loudness[..., None]).sum(1)

    def blips(self, events: Tensor, pitch: Tensor, rise: float, decay: Tensor, loudness: Tensor) -> Tensor:
        """Sum of tones (batch, samples) that begin at `pitch` hertz, rise by `rise` octaves per second (or fall), and
        decay to 1/e in `decay` seconds; each (batch, events)."""
        since = self.since(events)
        heard = since.clamp(min=0, max=2.0)
        speed = rise * math.log(2)
        cycles = pitch[..., None] * (heard if not rise else torch.expm1(speed * heard) / speed)
        shape = (since / 0.003).clamp(0, 1) * torch.exp(-heard / decay[..., None])
        audible = (pitch < TOP * self.sample_rate) * loudness
        return (torch.sin(2 * math.pi * cycles) * shape * audible[..., None]).sum(1)

    def crickets(self, phase: Tensor) -> Tensor:
        """The chirr of a summer night, of RMS 1; `phase` (batch,) in [0, 1)."""
        pitch = min(3600.0, 0.42 * self.sample_rate)
        pulse = torch.sin(2 * math.pi * (28 * self.times + phase[:, None])).clamp(min=0)
        chirp = (torch.sin(2 * math.pi * (2.4 * self.times + 3 * phase[:, None])) > -0.3).float()
        tone = torch.sin(2 * math.pi * pitch * self.times)
        return 2.6 * tone * pulse * chirp

    def birds(self, phase: Tensor) -> Tensor:
        """Chirping birds, about of RMS 1; `phase` (batch,) in [0, 1)."""
        number = torch.arange(1 + math.ceil(len(self.times) / self.sample_rate / 0.27), device=phase.device)
        start = (number + phase[:, None]) * 0.27 - 0.2
        pitch = min(2500.0, 0.3 * self.sample_rate) * (0.75 + 0.5 * (7.31 * phase[:, None] + 0.618 * number).frac())
        sung = (5.17 * phase[:, None] + 0.37 * number).frac() < 0.7
        return 3.0 * self.blips(start, pitch, 3.0, torch.full_like(start, 0.05), sung.float())


def levelled(sound: Tensor, rms: Tensor) -> Tensor:
    """`sound` scaled to `rms` (batch,)."""
    return sound * (rms[:, None] / sound.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-6))


def swell(times: Tensor, phase: Tensor, rate: float, depth: float) -> Tensor:
    """A slow irregular modulation around 1, (batch, samples); `phase` (batch,) in [0, 1), `rate` in hertz."""
    angle = 2 * math.pi * (rate * times + phase[:, None])
    return 1 + depth * (0.6 * torch.sin(angle) + 0.4 * torch.sin(2.3 * angle + 5 * phase[:, None]))
