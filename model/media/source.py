"""Reading a user's file: frames with their times, and sound to the sample.

Time counts from the first frame or the first sample that a player presents. A job uses one kind of track only, so each
track has its own zero, and offsets that containers add (1.4 s in transport streams, negative times where an encoder's
priming is cut off) do not move the window.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TypeVar, cast

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.container import InputContainer
from av.sidedata.sidedata import SideData
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from model.media.containers import (
    MAX_CHANNELS,
    MAX_SAMPLE_RATE,
    MIN_SAMPLE_RATE,
    READABLE,
    SNIFF_BYTES,
    UPLOAD,
    open_options,
    sniff,
)

Item = TypeVar("Item")

SEEK_FROM = 10
"""Seconds of video that are decoded to reach a window rather than sought over."""

GAP = 0.05
"""Seconds that a sound's time stamps may be off before they count as a hole. Below that it is rounding."""

MAX_PIXELS = 16_384 * 8_640
"""Pixels of a picture that may be decoded: four times what the service takes unless it is set to more."""

MAX_WINDOW_FRAMES = 2**13
MAX_WINDOW_PIXELS = 2**32
"""What a window may hold: 5000 frames a second, or 8K at 60 Hz for 2 s. A file of some kilobytes can hold a million."""

DECODER_THREADS = 4
"""Threads of a decoder, each of which holds a picture or more."""

PACKED_FORMATS = ("u8", "s16", "s32", "flt", "dbl")


class MediaError(ValueError):
    """A file that cannot give what is asked of it; the message is for its owner."""


@dataclass(frozen=True)
class TimedFrame:
    """A decoded frame, the seconds since the first frame at which it appears and those for which it stays."""

    frame: VideoFrame
    time: Fraction
    duration: Fraction

    @property
    def display_matrix(self) -> tuple[int, ...] | None:
        """The nine numbers, row by row, that turn the stored picture upright, if any (ISO/IEC 14496-12, `tkhd`)."""
        held = cast(Iterable[SideData], self.frame.side_data)
        matrix = next((bytes(one) for one in held if one.type.name == "DISPLAYMATRIX"), None)
        return None if matrix is None else tuple(np.frombuffer(matrix, np.int32).tolist())


@dataclass(frozen=True)
class Sound:
    """`samples` (samples, channels) in the type that the decoder gives: u8, s16, s32, flt or dbl, as `format` says."""

    samples: np.ndarray
    sample_rate: int
    layout: str
    format: str

    def to_float(self) -> np.ndarray:
        """(channels, samples) float32, full scale at ±1; what is no number is silence, what is infinite full scale."""
        if self.format == "u8":
            scaled = (self.samples.astype(np.float32) - 128) / 128
        elif self.format in ("s16", "s32"):
            scaled = self.samples / np.float64(2 ** (8 * self.samples.dtype.itemsize - 1))
        else:
            with np.errstate(over="ignore"):
                scaled = np.nan_to_num(self.samples.astype(np.float32), nan=0.0, posinf=1.0, neginf=-1.0)
        return np.ascontiguousarray(scaled.T, dtype=np.float32)


def open_media(path: str | Path) -> InputContainer:
    """Open a local file for reading, by the one demuxer that its first bytes call for, and nothing but this file.

    Raises MediaError if it cannot be read as media, and FileNotFoundError.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        demuxer = sniff(os.pread(descriptor, SNIFF_BYTES, 0))
        if demuxer is None:
            raise MediaError(f"the file cannot be opened: it is not {READABLE}")
        container = av.open(UPLOAD, format=demuxer, options=open_options(descriptor), metadata_errors="replace")
    except av.FFmpegError as error:
        raise MediaError(f"the file cannot be opened: {error.strerror}") from error
    finally:
        os.close(descriptor)  # the decoder has made its own of it
    for stream in (*container.streams.video, *container.streams.audio):
        if stream.codec_context is not None:
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            stream.codec_context.thread_count = min(DECODER_THREADS, os.cpu_count() or 1)
    return container


def checked(items: Iterable[Item]) -> Iterator[Item]:
    """Pass on packets or frames; what goes wrong while they are read is raised as MediaError."""
    try:
        yield from items
    except av.FFmpegError as error:
        raise MediaError(f"the file cannot be decoded: {error.strerror}") from error


def video_stream(container: InputContainer) -> VideoStream:
    """The first moving-picture track: cover art does not count. Raises MediaError if there is none."""
    for stream in container.streams.video:
        if stream.codec_context is not None and not stream.disposition & Disposition.attached_pic:
            return stream
    raise MediaError("the file has no video track")


def seconds(ticks: int | None, time_base: Fraction | None) -> Fraction | None:
    """A time stamp in seconds; None where the container gives none."""
    return None if ticks is None or time_base is None else ticks * time_base


def slack(time_base: Fraction | None) -> Fraction:
    """Seconds by which a time stamp may be off because its container rounds: WebM and MKV to milliseconds, say."""
    return min((time_base or Fraction(1)) / 2, Fraction(1, 2000))


def video_frames(path: str | Path, start: float | Fraction) -> Iterator[TimedFrame]:
    """Frames in order of presentation, from the one that is shown at `start` seconds to the end of the file.

    Raises MediaError if the file has no such frame.
    """
    for seek in (True, False) if start > SEEK_FROM else (False,):
        with open_media(path) as container:
            stream = video_stream(container)
            stream.thread_type = "AUTO"
            begin = Fraction(start) + slack(stream.time_base)
            frames = _timed(container, stream)
            shown = next(frames, None)
            if shown is None:
                raise MediaError("no frame of the video track can be decoded")
            if seek:
                frames = _seek(container, stream, shown.frame, begin)
                shown = next(frames, None)
                if shown is None or shown.time > begin:
                    continue  # some containers cannot seek, or land late: decode from the beginning
            for frame in frames:
                if frame.time > begin:
                    yield shown
                shown = frame
            end = shown.time + shown.duration
            if end <= begin:
                raise MediaError(f"the window begins at {float(start):.3f} s, but the video ends at {float(end):.3f} s")
            yield shown
            return


def window_frames(path: str | Path, start: float | Fraction) -> Iterator[TimedFrame]:
    """`video_frames` for who reads no more than a window. Raises MediaError where that holds far too many."""
    count = pixels = 0
    for shown in video_frames(path, start):
        count, pixels = count + 1, pixels + shown.frame.width * shown.frame.height
        if count > MAX_WINDOW_FRAMES or pixels > MAX_WINDOW_PIXELS:
            raise MediaError(
                f"the window has too many frames: {MAX_WINDOW_FRAMES} are allowed, "
                f"with {MAX_WINDOW_PIXELS // 10**6} million pixels in all of them"
            )
        yield shown


def _timed(container: InputContainer, stream: VideoStream, origin: Fraction | None = None) -> Iterator[TimedFrame]:
    """Decode, and give every frame a time that rises, also where the container has none or repeats itself."""
    interval = 1 / (stream.average_rate or stream.guessed_rate or Fraction(25))
    waiting: tuple[VideoFrame, Fraction] | None = None
    for frame in checked(container.decode(stream)):
        stamp = seconds(frame.pts, frame.time_base)
        origin = stamp or Fraction(0) if origin is None else origin
        if waiting is None:
            time = origin if stamp is None else stamp
        else:
            before, previous = waiting
            time = previous + interval if stamp is None or stamp <= previous else stamp
            yield TimedFrame(before, previous - origin, time - previous)
        waiting = frame, time
    if waiting is not None and origin is not None:
        last, time = waiting
        yield TimedFrame(last, time - origin, seconds(last.duration or None, last.time_base) or interval)


def _seek(container: InputContainer, stream: VideoStream, first: VideoFrame, start: Fraction) -> Iterator[TimedFrame]:
    """The frames from the last keyframe before `start`; none if the container cannot go there."""
    if first.pts is None or first.time_base is None:
        return iter(())
    try:
        container.seek(int(first.pts + start / first.time_base), stream=stream)
    except av.FFmpegError:
        return iter(())
    return _timed(container, stream, origin=first.pts * first.time_base)


def read_sound(path: str | Path, first: Fraction, duration: Fraction) -> Sound:
    """The samples of the first sound track in [first, first + duration) seconds, fewer if it ends before.

    It is decoded from its beginning: seeking in MP3 is by guess, and ten minutes decode in a second. What a container
    marks as encoder delay is gone (edit lists in MP4, the LAME header in MP3, the pre-skip of Opus); holes are silence.
    Raises MediaError if there is no sound track or it has nothing there.
    """
    with open_media(path) as container:
        if not container.streams.audio:
            raise MediaError("the file has no audio track")
        frames = _packed(container)
        frame = next(frames, None)
        if frame is None:
            raise MediaError("no sound of the audio track can be decoded")
        rate, channels = frame.sample_rate, len(frame.layout.channels)
        if not MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE:
            raise MediaError(f"a sample rate of {rate} Hz is not allowed: {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz")
        if channels > MAX_CHANNELS:
            raise MediaError(f"{channels} channels are more than are allowed, {MAX_CHANNELS}")
        begin, count = round(first * rate), round(duration * rate)
        window = _silence(count, channels, frame.format.name)
        origin, position = frame.pts, 0
        while frame is not None and position < begin + count:
            if frame.pts is not None and origin is not None and frame.time_base is not None:
                due = round((frame.pts - origin) * frame.time_base * rate)
                position = due if due > position + GAP * rate else position
            chunk = frame.to_ndarray().reshape(-1, channels)
            low, high = max(position, begin), min(position + len(chunk), begin + count)
            if low < high:
                window[low - begin : high - begin] = chunk[low - position : high - position]
            position += len(chunk)
            last = frame
            frame = next(frames, None)
        if position <= begin:
            end = position / rate
            raise MediaError(f"the window begins at {float(first):.3f} s, but the sound ends at {end:.3f} s")
        return Sound(window[: position - begin], rate, last.layout.name, last.format.name)


def _packed(container: InputContainer) -> Iterator[AudioFrame]:
    """Decoded frames with channels interleaved (PyAV miscounts the planes of planar frames with eight channels)."""
    resampler: av.AudioResampler | None = None
    for frame in checked(container.decode(container.streams.audio[0])):
        if resampler is None:
            packed = frame.format.packed.name
            target = packed if packed in PACKED_FORMATS else "dbl"
            resampler = av.AudioResampler(format=target, layout=frame.layout, rate=frame.sample_rate)
        try:
            yield from resampler.resample(frame)
        except ValueError as error:
            raise MediaError("the sound track changes its format midway") from error


def _silence(count: int, channels: int, format: str) -> np.ndarray:
    dtype = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "flt": np.float32, "dbl": np.float64}[format]
    return np.full((count, channels), 128 if format == "u8" else 0, dtype)
