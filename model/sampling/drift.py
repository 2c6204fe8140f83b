"""Keeps colour and loudness of a joint clip of several windows alike.

Apart from the shared mean of their noise, nothing holds windows together that share no frame. While there is noise, x̂_0
of the whole clip is pulled towards its own average: in pictures the mean over a window of the low frequencies, in sound
the level of a window. Changes much faster than a window stay nearly as they are. docs/long-clips.md has the
measurements.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool1d, interpolate

from model.sampling.latents import Latents
from model.sampling.windows import Windows

UNTIL = 2.5
"""λ, half the log signal-to-noise ratio, from which on x̂_0 is left alone."""

LOW_SIZE = 16
"""Pixels across and down a picture of low frequencies."""

QUIETEST = 1e-8
"""Mean square below which windows are equally quiet."""

MOST_GAIN = math.log(2)
"""Sound becomes at most twice as loud, and at least half as loud: a pause or a bang is no drift."""


def pull_strength(log_snr: float, until: float = UNTIL) -> float:
    """How far x̂_0 is pulled at λ = `log_snr`: 1 is all the way. 1 − the signal-to-noise ratio over that at `until`."""
    return max(0.0, 1.0 - math.exp(min(0.0, 2 * (log_snr - until))))


def reduce_drift(x0: Latents, windows: Windows, strength: float) -> None:
    """Pull the local means of `x0`, a whole clip, towards their mean over the clip by `strength`, in place.

    Sound gets a smooth gain, which pulls the logarithm of its local power towards the median, so that pauses do not
    change the rest. Values may leave [-1, 1].
    """
    if x0.video is not None:
        _pull_pictures(x0.video, windows.window, strength)
    if x0.audio is not None:
        _pull_level(x0.audio, windows, strength)


def _pull_pictures(video: Tensor, window: int, strength: float) -> None:
    height, width = video.shape[-2:]
    size = (min(LOW_SIZE, height), min(LOW_SIZE, width))
    low = adaptive_avg_pool2d(video.flatten(0, 1), size).unflatten(0, video.shape[:2])
    means = _local_means(low, window)
    move = strength * (means.mean(1, keepdim=True) - means)
    # Enlarged in parts, because all of it would be another copy of the clip.
    for some, moved in zip(video.split(window, 1), move.split(window, 1), strict=True):
        some += interpolate(moved.flatten(0, 1), (height, width), mode="bilinear").view_as(some)


def _pull_level(audio: Tensor, windows: Windows, strength: float) -> None:
    power = audio.unflatten(-1, (-1, windows.samples)).square().mean((1, 3))
    level = 0.5 * _local_means(power, windows.window).clamp(min=QUIETEST).log()
    missing = level.quantile(0.5, dim=1, keepdim=True) - level
    gain = (strength * missing.clamp(-MOST_GAIN, MOST_GAIN)).exp()
    audio.mul_(interpolate(gain[:, None], audio.shape[-1], mode="linear"))


def _local_means(value: Tensor, window: int) -> Tensor:
    """The mean of `value` (batch, frames, …) over the `window` frames around each; at the ends, over the first or
    last. Differences of running sums would lose a quiet window beside loud ones."""
    frames = value.shape[1]
    means = avg_pool1d(value.flatten(2).transpose(1, -1) if value.ndim > 2 else value[:, None], window, stride=1)
    first = (torch.arange(frames, device=value.device) - window // 2).clamp(0, frames - window)
    return means[..., first].transpose(1, -1).reshape(value.shape)
