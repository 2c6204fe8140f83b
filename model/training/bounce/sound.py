"""Synthesises the sound of a scene: a decaying tone for each impact, and a hum for each disc.

Harmonics above the Nyquist frequency are left out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from model.networks.config import ClipSpec
from model.training.bounce.motion import GRAVITY, RADII
from model.training.bounce.scene import DISCS, Scene

HARMONICS = ((1.0, 0.0, 0.0), (1.0, 0.7, 0.0), (1.0, 0.0, 0.7), (1.0, 0.7, 0.7))
"""Amplitudes of the first three harmonics for each hue class; all classes have the same power. At 8 kHz the highest
tone has no fourth harmonic."""

DECAYS = (0.16, 0.32)
"""Seconds to 1/e for the smallest and the largest disc."""

ATTACK = 0.004
"""Seconds. Without an attack, a tone begins with a click."""

HUM = (80.0, 160.0)
"""Hertz on the floor and at the ceiling, logarithmically interpolated by height."""

HUM_AMPLITUDE = 0.25
"""Relative to a tone of amplitude 1."""

GAIN = 0.87
"""Gives the data set an RMS of 0.3."""

KNEE = 0.7
"""Amplitude above which the sound is softly limited."""

TOP = 0.49
"""Highest frequency of a harmonic, as a fraction of the sample rate."""


def render(scene: Scene, clip: ClipSpec) -> Tensor:
    """(batch, 1, samples) float32 in (-1, 1)."""
    times = torch.arange(clip.samples, device=scene.time.device, dtype=torch.float64) / clip.sample_rate
    sound = _hum(scene, times, clip.sample_rate)
    sample, event = scene.impact.nonzero(as_tuple=True)
    sound.index_add_(0, sample, _tones(scene, sample, event, times, clip.sample_rate))
    return limited(GAIN * sound)[:, None]


def limited(sound: Tensor) -> Tensor:
    """Soft limiter: unchanged within ±KNEE, below 1 beyond, with a continuous first derivative."""
    beyond = (sound.abs() - KNEE).clamp(min=0)
    room = 1 - KNEE
    return sound.clamp(-KNEE, KNEE) + sound.sign() * room * torch.tanh(beyond / room)


def decay(radius: Tensor) -> Tensor:
    """Seconds to 1/e for a disc of `radius`."""
    return DECAYS[0] + (DECAYS[1] - DECAYS[0]) * (radius - RADII[0]) / (RADII[1] - RADII[0])


def loudness(speed: Tensor) -> Tensor:
    """Amplitude of an impact: square root of its speed, 1 for the fastest."""
    return (speed / math.sqrt(2 * GRAVITY * (1 - 2 * RADII[0]))).sqrt()


def _tones(scene: Scene, sample: Tensor, event: Tensor, times: Tensor, sample_rate: int) -> Tensor:
    """(impacts, samples)"""
    disc = scene.disc[sample, event]
    since = (times - scene.time[sample, event, None]).float()
    pitch = scene.pitch[sample, event]
    length = decay(scene.motion.radius[sample, disc]).float()
    weights = torch.tensor(HARMONICS, device=times.device, dtype=torch.float64)
    weights = (weights / weights.square().sum(-1, keepdim=True).sqrt())[scene.hue[sample, disc]]
    number = torch.arange(1, weights.shape[-1] + 1, device=times.device)
    weights = weights * (number * pitch[:, None] < TOP * sample_rate) * loudness(scene.speed[sample, event])[:, None]
    first, second, third = weights.float().unsqueeze(-1).unbind(1)
    angle = 2 * torch.pi * pitch.float()[:, None] * since
    sine, cosine = torch.sin(angle), torch.cos(angle)
    # sin 2a = 2 sin a cos a and sin 3a = sin a (4 cos² a - 1): one sine and one cosine are enough.
    wave = sine * (first - third + cosine * (2 * second + 4 * third * cosine))
    return wave * torch.exp(-since.clamp(min=0) / length[:, None]) * (since / ATTACK).clamp(0, 1)


def _hum(scene: Scene, times: Tensor, sample_rate: int) -> Tensor:
    """(batch, samples)"""
    total = torch.zeros(len(scene.time), len(times), device=times.device)
    heights = scene.motion.y(times)
    for disc in range(DISCS):
        height = heights[:, disc]
        pitch = HUM[0] * (HUM[1] / HUM[0]) ** height
        cycles = ((pitch.cumsum(-1) - pitch / 2 - pitch[:, :1] / 2) / sample_rate).remainder(1).float()
        total += HUM_AMPLITUDE * scene.present[:, disc, None] * torch.sin(2 * torch.pi * cycles)
    return total
