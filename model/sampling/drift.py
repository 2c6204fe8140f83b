"""Keeps colour and loudness of a joint clip of several windows alike.

Nothing else holds windows together that share no frame. While there is noise, x̂_0 of the whole clip is pulled towards
its own mean: in pictures the mean over a window of the low frequencies, in sound the level of a window. Whatever
changes faster than a window stays. Coupling the windows of a long clip in x̂_0 follows MultiDiffusion (Bar-Tal et al.,
ICML 2023); docs/long-clips.md has the measurements.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from model.sampling.latents import Latents
from model.sampling.windows import Windows

UNTIL = 2.5
"""λ, half the log signal-to-noise ratio, from which on x̂_0 is left alone."""

LOW = 16
"""Pixels across and down a picture of low frequencies."""

SILENCE = 1e-8
"""Mean square of the quietest level."""


def coupling(log_snr: float, until: float = UNTIL) -> float:
    """How far x̂_0 is pulled at λ = `log_snr`: 1 is all the way. 1 − the signal-to-noise ratio over that at `until`."""
    return max(0.0, 1.0 - math.exp(min(0.0, 2 * (log_snr - until))))


def reduce_drift(x0: Latents, windows: Windows, amount: float) -> None:
    """Pull the local means of `x0`, a whole clip, towards their mean over the clip by `amount`, in place.

    Sound gets a smooth gain, which does the same with the logarithm of its local power, and stays in [-1, 1].
    """
    if x0.video is not None:
        _pull_pictures(x0.video, windows.window, amount)
    if x0.audio is not None:
        _pull_level(x0.audio, windows, amount)


def _pull_pictures(video: Tensor, window: int, amount: float) -> None:
    height, width = video.shape[-2:]
    size = (min(LOW, height), min(LOW, width))
    low = adaptive_avg_pool2d(video.flatten(0, 1), size).unflatten(0, video.shape[:2])
    means = _local_means(low, window)
    move = amount * (means.mean(1, keepdim=True) - means)
    # Enlarged in parts, because all of it would be another copy of the clip.
    for some, moved in zip(video.split(window, 1), move.split(window, 1), strict=True):
        some += interpolate(moved.flatten(0, 1), (height, width), mode="bilinear").view_as(some)


def _pull_level(audio: Tensor, windows: Windows, amount: float) -> None:
    power = audio.unflatten(-1, (-1, windows.samples)).square().mean((1, 3)).clamp(min=SILENCE)
    level = _local_means(power, windows.window).log()
    gain = (0.5 * amount * (level.mean(1, keepdim=True) - level)).exp()
    audio.mul_(interpolate(gain[:, None], audio.shape[-1], mode="linear")).clamp_(-1, 1)


def _local_means(value: Tensor, window: int) -> Tensor:
    """The mean of `value` (batch, frames, …) over the `window` frames around each; at the ends, over the first or
    last."""
    frames = value.shape[1]
    total = torch.cat([torch.zeros_like(value[:, :1]), value.cumsum(1)], 1)
    first = (torch.arange(frames, device=value.device) - window // 2).clamp(0, frames - window)
    return (total[:, first + window] - total[:, first]) / window
