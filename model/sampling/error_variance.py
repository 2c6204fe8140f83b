"""r_t² = E‖x_0 − x̂_0‖² per element as a function of time: the error of the network's x̂_0. ΠGDM divides by it.

`model.runtime.calibration` measures it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ErrorVariance:
    """r_t² of one modality as a function of time, log-linear between the `times` (ascending) it was measured at."""

    times: Sequence[float]
    values: Sequence[float]

    def __call__(self, t: float) -> float:
        return float(np.exp(np.interp(t, self.times, np.log(self.values))))


def error_variance(calibration: dict[str, list[float]], modality: str) -> ErrorVariance:
    """The curve of `modality` in a manifest's `calibration`."""
    return ErrorVariance(calibration["times"], calibration[modality])
