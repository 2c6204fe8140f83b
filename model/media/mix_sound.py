"""Mixes a new mono sound with the upload's own, at a set loudness and below a set true peak.

The own sound keeps its rate, its loudspeakers and its sample format, and is scaled by one gain throughout: no limiter
and no compressor, which would change it from sample to sample. The new sound comes from the middle.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np

from model.media.layouts import layout_of
from model.media.loudness import LoudnessMeter, channel_weights, pieces
from model.media.mix_levels import APART, TRUE_PEAK, Mix, MixReport
from model.media.resampling import BLOCK, Resampler
from model.media.source import Sound
from model.media.spooled import filled, release

SCALES = {"u8": 2**7, "s16": 2**15, "s32": 2**31}


def middle(layout: str) -> np.ndarray:
    """Gain of a mono sound in each channel of `layout`, of the same power in all.

    It comes from the centre loudspeaker where there is one: one loudspeaker has no comb filter, whatever the seat.
    Otherwise from the front left and right at -3 dB each. In ambisonics it has no direction; in a layout without either
    it comes from everywhere.
    """
    names = [channel.name for channel in av.AudioLayout(layout).channels]
    if layout.endswith(" channels"):
        names = [channel.name for channel in av.AudioLayout(layout_of(len(names))).channels]
    if names[0].startswith("AMBI"):
        names = ["FC"] + [""] * (len(names) - 1)
    for seats in (("FC",), ("FL", "FR"), ("DL", "DR")):
        if set(seats) <= set(names):
            return np.array([len(seats) ** -0.5 if name in seats else 0.0 for name in names], np.float32)
    return np.full(len(names), len(names) ** -0.5, np.float32)


def mix_sounds(
    own: Sound, new: np.ndarray, mix: Mix, folder: Path | None = None
) -> tuple[Sound, np.ndarray, MixReport]:
    """Mix `own` and `new` (1, samples), which has the same rate and ±1 as full scale, over the length of `own`.

    With a `folder` long sounds are kept in files there that have no name.
    Returns the mix, in the own sound's format (16 bits where that has 8); `new` as it is in the mix; and the report.
    """
    length = len(own.samples)
    if new.shape[1] != length:
        new = np.pad(new[:, :length], ((0, 0), (0, max(0, length - new.shape[1]))))
    weights, place = channel_weights(own.layout), middle(own.layout)[:, None]
    loudness = _loudness(own, weights)
    gains = _gains(mix, loudness, _loudness_of_new(new, own, weights))
    meter = LoudnessMeter(own.sample_rate, weights)
    for part in pieces(length):
        meter.add(_decibels(gains[0]) * _part(own, part) + _decibels(gains[1]) * place * new[:, part])
        release(new)
    target = mix.loudness if mix.loudness is not None or not mix.keeps_own else loudness
    level, peak = meter.integrated(), meter.true_peak()
    raised = target - level if target is not None and math.isfinite(target) and math.isfinite(level) else 0.0
    limit = TRUE_PEAK if mix.true_peak is None else mix.true_peak
    lowered = max(0.0, peak + raised - limit)
    change = raised - lowered
    own_gain, new_gain = gains[0] + change, gains[1] + change
    heard = math.isfinite(level)
    made = filled(own.samples.shape, "i2" if own.format == "u8" else own.samples.dtype.str, 0, folder)
    format = "s16" if own.format == "u8" else own.format
    alone = filled(new.shape, "f4", 0, folder)
    for part in pieces(length):
        alone[:, part] = np.float32(_decibels(new_gain)) * new[:, part]
        made[part] = to_format(_decibels(own_gain) * _part(own, part) + place * alone[:, part], format)
        for array in (new, alone, made):
            release(array)
    report = MixReport(
        own_gain if mix.keeps_own else None,
        new_gain,
        level + change if heard else None,
        peak + change if math.isfinite(peak) else None,
        lowered,
    )
    return replace(own, samples=made, format=format), alone, report


def to_format(samples: np.ndarray, format: str) -> np.ndarray:
    """`samples` (channels, samples), full scale at ±1, as (samples, channels) in the sample format's own type."""
    if format not in SCALES:
        return samples.T
    scale = SCALES[format]
    whole = np.clip(np.rint(samples.T.astype(np.float64) * scale), -scale, scale - 1)
    return (whole + scale).astype(np.uint8) if format == "u8" else whole.astype(f"i{(scale.bit_length()) // 8}")


def put_resampled(target: np.ndarray, at: int, audio: np.ndarray, rate: int, new_rate: int) -> None:
    """Put `audio` (channels, samples), which has `rate` hertz, into `target` of `new_rate` from sample `at` on, as far
    as it lies inside."""
    for part in _resampled(audio, rate, new_rate):
        first, last = max(0, at), min(target.shape[1], at + part.shape[1])
        if first < last:
            target[:, first:last] = part[:, first - at : last - at]
            release(target)
        at += part.shape[1]


def _resampled(audio: np.ndarray, rate: int, new_rate: int) -> Iterator[np.ndarray]:
    resampler = Resampler(rate, new_rate, BLOCK)
    whole = np.ascontiguousarray(audio, np.float32)
    for first in range(0, whole.shape[1], BLOCK):
        yield resampler.add(whole[:, first : first + BLOCK])
    yield resampler.finish()


def _gains(mix: Mix, own: float, new: float) -> tuple[float, float]:
    """Decibels for own and new sound of these loudnesses, before the loudness of the whole is set."""
    if mix.mode == "gains":
        return mix.own, mix.new
    if mix.mode == "replace":
        return -math.inf, 0.0
    if not (math.isfinite(own) and math.isfinite(new)):
        return 0.0, 0.0  # nothing to be above or below
    return (0.0, own - APART - new) if mix.mode == "under" else (0.0, own + APART - new)


def _loudness(sound: Sound, weights: np.ndarray) -> float:
    meter = LoudnessMeter(sound.sample_rate, weights)
    for part in pieces(len(sound.samples)):
        meter.add(_part(sound, part))
    return meter.integrated()


def _loudness_of_new(new: np.ndarray, own: Sound, weights: np.ndarray) -> float:
    """Where it is heard: in the middle of the own sound's layout."""
    power = float(weights @ np.square(middle(own.layout)))
    meter = LoudnessMeter(own.sample_rate, np.array([power]))
    for part in pieces(new.shape[1]):
        meter.add(new[:, part])
        release(new)
    return meter.integrated()


def _part(sound: Sound, part: slice) -> np.ndarray:
    """(channels, samples) float32 of a part of `sound`."""
    return replace(sound, samples=sound.samples[part]).to_float()


def _decibels(gain: float) -> float:
    return 0.0 if gain == -math.inf else 10 ** (gain / 20)
