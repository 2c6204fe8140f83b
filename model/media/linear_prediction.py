"""Continues a sound beyond its end by linear prediction, so that what fades in after it has something to fade from."""

from __future__ import annotations

import numpy as np

ORDER = 32
"""Most coefficients: a sound of half as many tones goes on as it was."""

LEAST_ENERGY = 1e-9
"""Of the prediction error, as a share of the sound's; below it the sound is predicted exactly."""


def continue_sound(known: np.ndarray, count: int) -> np.ndarray:
    """`count` samples that follow `known` (channels, samples); (channels, count). They stay within its extremes."""
    return np.stack([_continue(channel.astype(np.float64), count) for channel in known]).astype(known.dtype)


def _continue(known: np.ndarray, count: int) -> np.ndarray:
    coefficients = _burg(known, min(ORDER, len(known) // 3))
    order = len(coefficients)
    if order == 0:
        return np.full(count, known[-1] if len(known) else 0.0)
    values = np.concatenate([known[-order:], np.zeros(count)])
    for place in range(order, order + count):
        values[place] = coefficients @ values[place - order : place][::-1]
    return np.clip(values[order:], known.min(), known.max())


def _burg(x: np.ndarray, order: int) -> np.ndarray:
    """Coefficients c with x[n] ≈ Σ c[k] x[n − 1 − k], by Burg's method (1975), whose prediction never grows."""
    polynomial = np.ones(1)
    forward, backward = x[1:], x[:-1]
    least = LEAST_ENERGY * float(x @ x)
    for _ in range(order):
        energy = float(forward @ forward + backward @ backward)
        if energy <= least:
            break
        reflection = -2 * float(forward @ backward) / energy
        longer = np.append(polynomial, 0.0)
        polynomial = longer + reflection * longer[::-1]
        forward, backward = forward[1:] + reflection * backward[1:], backward[:-1] + reflection * forward[:-1]
    return -polynomial[1:]
