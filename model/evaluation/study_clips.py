"""Clips for blind studies: of equal loudness, without metadata; and attention checks.

Loudness is ITU-R BS.1770's, of the sound as two loudspeakers play it: a mono track counts twice. All clips get the same
loudness: TARGET, or less if a clip could only reach it by clipping.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from model.media.encode import write_clip
from model.media.loudness import LoudnessMeter, channel_weights, pieces
from model.media.mux import mux_v2a
from model.media.opening import MediaError
from model.media.source import media_end, read_sound

TARGET, LOWEST_TARGET = -23.0, -36.0
"""LUFS: the loudness of EBU R 128, and the lowest one to which a clip with high peaks takes all others."""

PEAK = -1.0
"""Highest true peak, in dB of full scale."""

SHORTEST, LONGEST = 0.5, 60.0
"""Seconds of a clip."""

CHECK_SIZE = (480, 360)
CHECK_SECONDS = 6.0
CHECK_FPS = 5
CHECK_RATE = 44_100
TONE, TONE_SECONDS, TONE_INTERVAL, FIRST_TONE = 880.0, 0.25, 0.7, 1.5
"""Hertz and seconds of the tones of an attention check."""


@dataclass(frozen=True)
class Loudness:
    """`lufs` and `peak` (true peak, dB of full scale) are -inf for silence; `duration` in seconds."""

    lufs: float
    peak: float
    duration: Fraction

    @property
    def reachable(self) -> float:
        """The highest loudness without clipping, in LUFS."""
        return self.lufs + PEAK - self.peak if math.isfinite(self.lufs) else math.inf

    def gain(self, target: float) -> float:
        """The factor that brings the sound to `target` LUFS, or as close as its peaks allow."""
        return 10 ** ((min(target, self.reachable) - self.lufs) / 20) if math.isfinite(self.lufs) else 1.0


def measure(path: Path) -> Loudness:
    """The loudness of a clip's sound. Raises MediaError unless it has picture and sound that a study can use."""
    duration = media_end(path, "video")
    if not SHORTEST <= duration <= LONGEST:
        raise MediaError(f"lasts {float(duration):.2f} s; a clip lasts {SHORTEST:g} … {LONGEST:g} s")
    sound = read_sound(path, Fraction(0), duration)
    return _loudness(sound.to_float(), sound.sample_rate, sound.layout, duration)


def common_target(measured: Iterable[Loudness]) -> float:
    """The loudness in LUFS that all clips can have; at least LOWEST_TARGET, which a few may then miss."""
    return max(LOWEST_TARGET, min(TARGET, *(each.reachable for each in measured)))


def write_study_clip(source: Path, loudness: Loudness, target: float, path: Path) -> None:
    """Write the clip to `path` (MP4) at the loudness `target`: its own frames, no name, no comment.

    Raises MediaError.
    """
    sound = read_sound(source, Fraction(0), loudness.duration)
    samples = sound.to_float() * loudness.gain(target)
    mux_v2a(source, 0.0, float(loudness.duration), samples, sound.sample_rate, path, "")


def write_check(video: int, match: int, real: bool, tones: int, target: float, path: Path) -> None:
    """Write an attention check to `path`: a card that asks for these answers, and as the one about the sound for the
    number of tones (1 … 5), so that it is answered only with the sound on."""
    width, height = CHECK_SIZE
    card = Image.new("RGB", CHECK_SIZE, "#f5f6f6")
    draw = ImageDraw.Draw(card)
    lines = (
        ("This clip is a check.", 34),
        (f"Picture: answer {video}", 30),
        ("Sound: answer the number of tones", 26),
        (f"Match: answer {match}", 30),
        (f"Then answer: {'Real' if real else 'Machine-made'}", 26),
    )
    for row, (words, size) in enumerate(lines):
        at = (width / 2, height * (row + 0.7) / (len(lines) + 0.4))
        draw.text(at, words, fill="#161a1d", font=ImageFont.load_default(size), anchor="mm")
    frames = np.repeat(np.asarray(card)[None], round(CHECK_SECONDS * CHECK_FPS), axis=0)
    samples = _tones(tones)
    loudness = _loudness(samples, CHECK_RATE, "stereo", Fraction(CHECK_SECONDS))
    write_clip(path, frames, CHECK_FPS, samples * loudness.gain(target), CHECK_RATE, "")


def _tones(count: int) -> np.ndarray:
    """(2, samples): `count` tones with soft edges."""
    time = np.arange(round(TONE_SECONDS * CHECK_RATE)) / CHECK_RATE
    tone = np.sin(2 * np.pi * TONE * time) * np.sin(np.pi * time / TONE_SECONDS) ** 0.5
    samples = np.zeros(round(CHECK_SECONDS * CHECK_RATE), np.float32)
    for number in range(count):
        first = round((FIRST_TONE + number * TONE_INTERVAL) * CHECK_RATE)
        samples[first : first + len(tone)] = 0.5 * tone
    return np.stack([samples, samples])


def _loudness(samples: np.ndarray, rate: int, layout: str, duration: Fraction) -> Loudness:
    """Of `samples` (channels, samples) in [-1, 1]."""
    weights = channel_weights(layout) * (2 if len(samples) == 1 else 1)
    meter = LoudnessMeter(rate, weights)
    for piece in pieces(samples.shape[1]):
        meter.add(samples[:, piece])
    return Loudness(meter.integrated(), meter.true_peak(), duration)
