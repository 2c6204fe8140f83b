"""How wrong x̂_0 is at each time: r_t² = E‖x_0 − x̂_0‖² per element, measured on validation clips; ΠGDM divides by it.

A pretrained network's error is not that of any textbook prior: on the toy problem of docs/guidance.md the r² of
unit-variance data leaves a fifth of the coupling out, the measured one restores it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from model.config import MODALITIES
from model.evaluate import Evaluator
from model.latents import Latents, clip
from model.randomness import RandomStream
from model.samplers import Evaluate


@dataclass(frozen=True)
class ErrorVariance:
    """r_t² of one modality as a function of time, log-linear between the `times` (ascending) it was measured at."""

    times: Sequence[float]
    values: Sequence[float]

    def __call__(self, t: float) -> float:
        return float(np.exp(np.interp(t, self.times, np.log(self.values))))


def error_variance(calibration: dict[str, list[float]], modality: str) -> ErrorVariance:
    """The curve that a manifest's `calibration` holds for `modality`."""
    return ErrorVariance(calibration["times"], calibration[modality])


def calibrate(
    evaluator: Evaluator, clips: Iterable[Latents], max_shifts: Sequence[int], points: int = 33, seed: int = 0
) -> dict[str, list[float]]:
    """Measure r_t² of both modalities at `points` times, evenly spaced in log-SNR, on clean `clips`.

    Both sides are noised to the same time, x̂_0 is clipped to [-1, 1] as in sampling. Returns what a manifest keeps:
    `times` ascending, and r_t² for `video` and `audio`. Raises ValueError if there is no clip.
    """
    schedule = evaluator.schedule
    times = sorted(schedule.grid(points - 1, "log_snr"))
    squares = {name: np.zeros(points) for name in MODALITIES}
    count = 0
    for count, x0 in enumerate(clips, start=1):
        stream = RandomStream(seed, count)
        for k, t in enumerate(times):
            x = schedule.add_noise(x0, t, stream.normal_like(x0))
            shifts = stream.shifts(max_shifts, x0.batch)
            (prediction,) = evaluator([Evaluate(x, t, t, shifts=shifts)])
            predicted = clip(schedule.to_x0(x, prediction.eps, t))
            for name in MODALITIES:
                squares[name][k] += float((x0[name] - predicted[name]).square().mean())
    if count == 0:
        raise ValueError("calibration needs at least one clip")
    # Below the precision of 16-bit sound an error is rounding, and dividing by it would only amplify that.
    floor = torch.finfo(torch.float16).eps ** 2
    return {"times": times} | {name: list(np.maximum(squares[name] / count, floor)) for name in MODALITIES}
