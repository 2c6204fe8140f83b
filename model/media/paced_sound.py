"""The sound track of a file that is written, encoded piece by piece beside its frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import floor

import numpy as np
from av.container import OutputContainer
from torch import Tensor

from model.media import encode
from model.media.aac import BLOCK, AacTrack, as_float, blocks, mixed_peak
from model.media.source import Sound
from model.media.spooled import release

BEYOND = 1
"""Seconds of sound after the end of the file's frames that a resampler gets to see."""


@dataclass(frozen=True)
class Samples:
    """A sound that is read piece by piece and followed by silence: `read(first, last)` gives (channels, samples)
    float32. Frames may go on a little longer than it."""

    format: encode.SoundFormat
    read: Callable[[int, int], np.ndarray]

    @classmethod
    def of_array(cls, audio: np.ndarray | Tensor, sample_rate: int) -> Samples:
        peak = mixed_peak(blocks(audio), len(audio), None)
        format = encode.SoundFormat(sample_rate, len(audio), None, peak)

        def read(first: int, last: int) -> np.ndarray:
            there = as_float(audio[:, first:last])
            if isinstance(audio, np.ndarray):
                release(audio)
            return np.pad(there, ((0, 0), (0, last - first - there.shape[1])))

        return cls(format, read)

    @classmethod
    def of_sound(cls, sound: Sound) -> Samples:
        def read(first: int, last: int) -> np.ndarray:
            there = sound.to_float(first, last)
            return np.pad(as_float(there), ((0, 0), (0, last - first - there.shape[1])))

        channels = sound.samples.shape[1]
        floats = (read(first, first + BLOCK) for first in range(0, len(sound.samples), BLOCK))
        return cls(
            encode.SoundFormat(sound.sample_rate, channels, sound.layout, mixed_peak(floats, channels, sound.layout)),
            read,
        )


class PacedSound:
    """The sound track of a file, encoded as far as its frames are, so that a player finds both at one place."""

    def __init__(self, container: OutputContainer, samples: Samples) -> None:
        form = samples.format
        self.track = AacTrack(container, form.sample_rate, form.channels, form.layout, form.peak)
        self._container, self._samples = container, samples
        self._read = 0

    def follow(self, time: Fraction) -> None:
        """Encode what is heard before `time` seconds."""
        last = floor(time * self._samples.format.sample_rate)
        while self._read < last:
            audio = self._samples.read(self._read, min(last, self._read + BLOCK))
            self._container.mux(self.track.add(audio))
            self._read += audio.shape[1]

    def finish(self, end: Fraction) -> None:
        """Encode the rest; it ends at `end` seconds."""
        self.track.cut(end)
        self.follow(end + BEYOND)
        self._container.mux(self.track.finish())
