"""Opening a user's file, and reading its sound to the sample; `model.media.frames` reads its pictures.

All times are those that a player shows: seconds from where the first of the file's video and audio tracks begins
(`timeline_origin`). Offsets that a container adds to all of its tracks (1.4 s in transport streams) do not move the
window; a delay of one track behind another does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from math import floor
from pathlib import Path
from typing import Literal, TypeVar

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.container import InputContainer
from av.video.stream import VideoStream

from model.media.containers import MAX_CHANNELS, MAX_SAMPLE_RATE, MIN_SAMPLE_RATE
from model.media.display import Display, display_of
from model.media.lengths import SoundClock, parts, sound_origin, sound_stamp, track_end
from model.media.opening import MediaError, decoded, open_descriptor
from model.media.spooled import filled, release
from model.media.tracks import NoTrackError, audio_tracks, tracks_for, video_track

Chosen = TypeVar("Chosen")

MAX_PIXELS = 16_384 * 8_640
"""Pixels of a picture that may be decoded: four times what the service takes unless it is set to more."""

DECODER_THREADS = 4
"""Threads of a decoder, each of which holds a picture or more."""

RELEASED = 2**18
"""Samples that are placed between two releases of the memory of a long sound."""

PACKED_FORMATS = ("u8", "s16", "s32", "flt", "dbl")


@dataclass(frozen=True)
class Sound:
    """`samples` (samples, channels) in the type that the decoder gives: u8, s16, s32, flt or dbl, as `format` says.

    `converted` names the format that a part of them had, if the track changes its format there.
    """

    samples: np.ndarray
    sample_rate: int
    layout: str
    format: str
    converted: str | None = None

    def to_float(self, first: int = 0, last: int | None = None) -> np.ndarray:
        """Samples `first` … `last` as (channels, samples) float32, full scale at ±1; what is no number is silence, what
        is infinite full scale."""
        samples = self.samples[first:last]
        if self.format == "u8":
            scaled = (samples.astype(np.float32) - 128) / 128
        elif self.format in ("s16", "s32"):
            scaled = samples.astype(np.float32)
            scaled /= np.float32(2 ** (8 * samples.dtype.itemsize - 1))  # a power of two: exact
        else:
            with np.errstate(over="ignore"):
                scaled = np.nan_to_num(samples.astype(np.float32), nan=0.0, posinf=1.0, neginf=-1.0)
        release(self.samples)
        return np.ascontiguousarray(scaled.T, dtype=np.float32)

    def pieces(self, size: int = RELEASED) -> Iterator[np.ndarray]:
        """`samples`, so many at a time."""
        for first in range(0, len(self.samples), size):
            yield self.samples[first : first + size]
            release(self.samples)


def open_media(path: str | Path) -> InputContainer:
    """Open a local file for reading, and nothing but this file.

    Raises MediaError if it cannot be read as media, and FileNotFoundError.
    """
    with _descriptor(path) as descriptor:  # the decoder makes its own of it
        return _open(descriptor)


@contextmanager
def _descriptor(path: str | Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open(descriptor: int, link: tuple[int, int] | None = None) -> InputContainer:
    return open_descriptor(descriptor, MAX_PIXELS, min(DECODER_THREADS, os.cpu_count() or 1), link)


@contextmanager
def open_video(path: str | Path) -> Iterator[tuple[InputContainer, VideoStream, Display]]:
    """Open a file with the video track that players choose, and how that is shown; of a chained one the first part.

    Raises as `open_media`.
    """
    with closing(open_parts(path, video_track)) as found:
        container, stream, _, descriptor = next(found)
        yield container, stream, display_of(descriptor, container, stream)


def media_end(path: str | Path, what: Literal["video", "audio"]) -> Fraction:
    """Seconds at which the track that players choose ends. Raises MediaError if there is none."""
    end = Fraction(0)
    for container, tracks, begin, descriptor in open_parts(path, partial(tracks_for, what=what)):
        end = begin + track_end(container, tracks[0], descriptor)
    return end


def open_parts(
    path: str | Path, choose: Callable[[InputContainer], Chosen]
) -> Generator[tuple[InputContainer, Chosen, Fraction, int]]:
    """Each part of a file that has the tracks wanted: the part, open; the tracks; when it begins; the descriptor.

    Raises MediaError if none has them.
    """
    missing: NoTrackError | None = None
    found = False
    with _descriptor(path) as descriptor:
        for part in parts(descriptor, partial(_open, descriptor)):
            with _open(descriptor, part.link) as container:
                try:
                    tracks = choose(container)
                except NoTrackError as error:
                    missing = error
                    continue
                found = True
                yield container, tracks, part.begin, descriptor
    if not found and missing is not None:
        raise missing


def slack(time_base: Fraction | None) -> Fraction:
    """Seconds by which a time stamp may be off because its container rounds: WebM and MKV to milliseconds, say."""
    return min((time_base or Fraction(1)) / 2, Fraction(1, 2000))


def read_sound(path: str | Path, first: Fraction, duration: Fraction, folder: Path | None = None) -> Sound:
    """The samples of the first sound track in [first, first + duration) seconds, fewer if it ends before.

    It is decoded from its beginning: seeking in MP3 is by guess, and ten minutes decode in a second. What a container
    marks as encoder delay is gone (edit lists in MP4, the LAME header in MP3, the pre-skip of Opus); holes are silence.
    A track that changes its rate or channels within the window is converted to what the window begins with. A left and
    a right track of different sample formats are both converted to flt.
    With a `folder` the samples of a long sound are kept in a file there that has no name, not in memory.
    Raises MediaError if there is no sound track or it has nothing there.
    """
    sides = [_read_side(path, side, first, duration, folder) for side in range(_sides(path))]
    if len(sides) == 1:
        return sides[0]
    length = max(len(side.samples) for side in sides)
    alike = sides[0].format == sides[1].format
    format = sides[0].format if alike else "flt"
    samples = _silence(length, 2, format, folder)
    for channel, side in enumerate(sides):
        samples[: len(side.samples), channel] = side.samples[:, 0] if alike else side.to_float()[0]
    return Sound(samples, sides[0].sample_rate, "stereo", format, sides[0].converted or sides[1].converted)


def _sides(path: str | Path) -> int:
    """2 if the left and the right channel are tracks of their own, else 1."""
    with closing(open_parts(path, audio_tracks)) as found:
        return len(next(found)[1])


def _read_side(path: str | Path, side: int, first: Fraction, duration: Fraction, folder: Path | None) -> Sound:
    window: _SoundWindow | None = None
    end: Fraction | None = None
    for frame, time in _sound_frames(path, side):
        end = time + Fraction(frame.samples, frame.sample_rate)
        if window is None and end > first:
            window = _SoundWindow(frame, first, duration, folder)
        if window is not None:
            window.add(frame, time)
        if end >= first + duration:
            break
    if end is None:
        raise MediaError("no sound of the audio track can be decoded")
    sound = window.finish() if window is not None else None
    if sound is None or not len(sound.samples):
        raise MediaError(f"the window begins at {float(first):.3f} s, but the sound ends at {float(end):.3f} s")
    return sound


def _sound_frames(path: str | Path, side: int) -> Iterator[tuple[AudioFrame, Fraction]]:
    """Decoded frames of the chosen track, or of one side of a pair, with the seconds at which they begin."""
    for container, tracks, begin, _ in open_parts(path, audio_tracks):
        clock = SoundClock(begin - sound_origin(container))
        for frame in decoded(container, tracks[min(side, len(tracks) - 1)]):
            assert isinstance(frame, AudioFrame)
            length = Fraction(frame.samples, frame.sample_rate)
            yield frame, Fraction(clock.place(sound_stamp(container, frame), length))


class _SoundWindow:
    """Collects decoded frames of a window, in the sample rate and layout of the first of them."""

    def __init__(self, frame: AudioFrame, first: Fraction, duration: Fraction, folder: Path | None) -> None:
        self.rate, self.layout, channels = frame.sample_rate, frame.layout, len(frame.layout.channels)
        if not MIN_SAMPLE_RATE <= self.rate <= MAX_SAMPLE_RATE:
            raise MediaError(
                f"a sample rate of {self.rate} Hz is not allowed: {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz"
            )
        if channels > MAX_CHANNELS:
            raise MediaError(f"{channels} channels are more than are allowed, {MAX_CHANNELS}")
        packed = frame.format.packed.name
        self.format = packed if packed in PACKED_FORMATS else "dbl"
        self.begin = round(first * self.rate)
        self.samples = _silence(round(duration * self.rate), channels, self.format, folder)
        self.position = 0
        self._unreleased = 0
        self.converted: str | None = None
        self._resampler: av.AudioResampler | None = None
        self._kind: tuple[str, str, int] | None = None

    def add(self, frame: AudioFrame, time: Fraction) -> None:
        """Place `frame`, which begins at `time` seconds."""
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if kind != self._kind:
            self._flush()
            self.position = floor(time * self.rate + Fraction(1, 2))
            if kind[1:] != (self.layout.name, self.rate):
                self.converted = f"{kind[2]} Hz {kind[1]}"
            self._kind = kind
            # PyAV miscounts the planes of planar frames with eight channels: interleave them.
            self._resampler = av.AudioResampler(format=self.format, layout=self.layout, rate=self.rate)
        assert self._resampler is not None
        if frame.sample_rate == self.rate:  # a resampler between rates keeps some samples back: no times then
            self.position = floor(time * self.rate + Fraction(1, 2))
        frame.pts = None
        self._place(self._resampler.resample(frame))

    def finish(self) -> Sound:
        self._flush()
        there = min(max(0, self.position - self.begin), len(self.samples))
        return Sound(self.samples[:there], self.rate, self.layout.name, self.format, self.converted)

    def _flush(self) -> None:
        if self._resampler is not None:
            self._place(self._resampler.resample(None))

    def _place(self, frames: list[AudioFrame]) -> None:
        for frame in frames:
            chunk = frame.to_ndarray().reshape(-1, self.samples.shape[1])
            low = max(self.position, self.begin)
            high = min(self.position + len(chunk), self.begin + len(self.samples))
            if low < high:
                self.samples[low - self.begin : high - self.begin] = chunk[low - self.position : high - self.position]
                self._unreleased += high - low
                if self._unreleased > RELEASED:
                    release(self.samples)
                    self._unreleased = 0
            self.position += len(chunk)


def _silence(count: int, channels: int, format: str, folder: Path | None) -> np.ndarray:
    dtype = {"u8": "u1", "s16": "i2", "s32": "i4", "flt": "f4", "dbl": "f8"}[format]
    return filled((count, channels), dtype, 128 if format == "u8" else 0, folder)
