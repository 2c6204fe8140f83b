"""A sound track of AAC that is written in pieces.

AAC has few sample rates and loudspeaker layouts. Sound of other rates is resampled, and of other layouts mixed, in
blocks, so that a long sound is not held as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from math import ceil

import av
import numpy as np
from av.container import OutputContainer
from av.packet import Packet
from torch import Tensor

from model.media.layouts import layout_of, mixing
from model.media.resampling import BLOCK, Resampler
from model.media.spooled import release

AAC_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
AAC_BITS_PER_CHANNEL = 192_000
"""Bits a second for each channel. A clip is short: what this costs in bytes is nothing beside the video."""

AAC_FRAME_BITS, AAC_FRAME = 6144, 1024
"""ISO/IEC 14496-3: at most so many bits a channel for a frame of so many samples."""

AAC_OPTIONS = {"aac_coder": "fast", "aac_pns": "0", "aac_is": "0"}
"""Code the wave as it is. Noise substitution and intensity stereo sound alike but are other waves."""


class AacTrack:
    """The sound track of a file that is being written, for sound of `channels` channels.

    AAC has 13 sample rates: any other is resampled to the next higher one (above 96 kHz: to 96 kHz). Layouts are mixed
    as `model.media.layouts` says, and a mix is divided by its `peak` (`mixed_peak`). `changes` says in words what is
    changed; it is empty where nothing is resampled or mixed.
    """

    def __init__(
        self, container: OutputContainer, sample_rate: int, channels: int, layout: str | None = None, peak: float = 1.0
    ) -> None:
        source = layout or layout_of(channels)
        self._mixing = mixing(source, channels)
        self._peak = peak
        self.rate = next((known for known in AAC_RATES if known >= sample_rate), AAC_RATES[-1])
        self._resampler = Resampler(sample_rate, self.rate, BLOCK)
        changes = [f"{source} mixed down to {self._mixing.layout}"] if self._mixing.mixes else []
        if self.rate != sample_rate:
            changes.append(f"resampled from {sample_rate} to {self.rate} Hz")
        self.changes = ", ".join(changes)
        self._stream = container.add_stream("aac", rate=self.rate, layout=self._mixing.layout, options=AAC_OPTIONS)
        count = len(self._stream.layout.channels)
        self._stream.bit_rate = count * min(AAC_BITS_PER_CHANNEL, AAC_FRAME_BITS * self.rate // AAC_FRAME)
        self._ready = np.empty((count, 0), np.float32)
        self._encoded = 0
        self._most: int | None = None

    def cut(self, length: Fraction) -> None:
        """Leave out what is beyond `length` seconds and not encoded yet."""
        self._most = round(length * self.rate)

    def add(self, audio: np.ndarray | Tensor) -> list[Packet]:
        """Packets of what is complete once `audio` (channels, samples) in [-1, 1] follows."""
        packets: list[Packet] = []
        for block in blocks(audio):
            self._ready = self._joined(self._resampler.add(self._mixed(block)))
            packets += self._encode(self._ready.shape[1] // AAC_FRAME * AAC_FRAME)
        return packets

    def finish(self) -> list[Packet]:
        """The remaining packets."""
        self._ready = self._joined(self._resampler.finish())
        return self._encode(self._ready.shape[1]) + self._stream.encode(None)

    def _mixed(self, audio: np.ndarray) -> np.ndarray:
        mixed = self._mixing.apply(audio)
        return mixed / self._peak if self._mixing.mixes else mixed

    def _joined(self, more: np.ndarray) -> np.ndarray:
        return np.concatenate([self._ready, more], axis=1) if more.shape[1] else self._ready

    def _encode(self, samples: int) -> list[Packet]:
        """Encode so many samples of those that are ready."""
        if self._most is not None:
            samples = min(samples, max(0, self._most - self._encoded))
        packets: list[Packet] = []
        for first in range(0, samples, AAC_FRAME):
            chunk = np.ascontiguousarray(self._ready[:, first : min(first + AAC_FRAME, samples)].T).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(chunk, format="flt", layout=self._stream.layout.name)
            frame.sample_rate, frame.time_base = self.rate, Fraction(1, self.rate)
            frame.pts = self._encoded + first
            packets += self._stream.encode(frame)
        self._encoded += samples
        self._ready = self._ready[:, samples:]
        return packets


def mixed_peak(audio: Iterable[np.ndarray], channels: int, layout: str | None = None) -> float:
    """The peak of the mix of all pieces of `audio` (channels, samples) where it exceeds full scale, otherwise 1."""
    mix = mixing(layout or layout_of(channels), channels)
    if not mix.mixes:
        return 1.0
    return max((float(np.abs(mix.apply(piece)).max(initial=1.0)) for piece in audio), default=1.0)


def blocks(audio: np.ndarray | Tensor, size: int = BLOCK) -> Iterator[np.ndarray]:
    """`audio` (channels, samples) in blocks of `size` samples, each as `as_float`; one empty block if it is empty."""
    for number in range(max(1, ceil(audio.shape[1] / size))):
        yield as_float(audio[:, number * size : (number + 1) * size])
        if isinstance(audio, np.ndarray):
            release(audio)


def as_float(audio: np.ndarray | Tensor) -> np.ndarray:
    """(channels, samples) float32, clipped to [-1, 1]."""
    samples = audio.numpy(force=True) if isinstance(audio, Tensor) else audio
    return np.clip(samples, -1, 1).astype(np.float32)
