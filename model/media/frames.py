"""Reading the frames of a user's video, on the timeline that `model.media.source` describes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import cast

import av
import av.filter
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from model.media.display import UNSPECIFIED, Display, display_of
from model.media.fields import deinterlaced, filter_graph
from model.media.lengths import THEORA, frame_interval, has_decode_times_only, seconds, timeline_origin
from model.media.opening import MediaError, decode_packet, decoded, read_packets
from model.media.side_data import side_data
from model.media.source import open_parts, open_video, slack
from model.media.tracks import video_track

SEEK_FROM = 10
"""Seconds of video that are decoded to reach a window rather than sought over."""

MAX_FRAMES_A_SECOND = 5000
MAX_PIXELS_A_SECOND = 2**31
"""Limits for each second of a window: 8K at 60 Hz stays below. A file of some kilobytes can hold a million frames."""

SPARE = 1
"""Seconds added to a window for these limits: its first frame begins before it, and its last one ends after it."""


@dataclass(frozen=True)
class TimedFrame:
    """A decoded frame, the time at which it appears, the seconds for which it stays, and how it is shown.

    `aspect`: width of a pixel by its height, before the frame is turned upright. `matrix`: the stated one (ITU-T
    H.273); the frame carries the nearest that the library converts.
    """

    frame: VideoFrame
    time: Fraction
    duration: Fraction
    aspect: Fraction = Fraction(1)
    matrix: int = UNSPECIFIED

    @property
    def display_matrix(self) -> tuple[int, ...] | None:
        """The nine numbers, row by row, that turn the stored picture upright, if any (ISO/IEC 14496-12, `tkhd`)."""
        matrix = side_data(self.frame).get("DISPLAYMATRIX")
        return None if matrix is None else tuple(np.frombuffer(matrix, np.int32).tolist())


def video_frames(path: str | Path, start: float | Fraction, keep_fields: bool = False) -> Iterator[TimedFrame]:
    """Frames in order of presentation, from the one that is shown at `start` seconds to the end of the file.

    They are cropped as a player crops them, and deinterlaced unless `keep_fields`. Where the track begins later than
    `start`, its first frame is the first. Raises MediaError if the track ends before.
    """
    begin = Fraction(start)
    for seek in (begin, None) if begin > SEEK_FROM else (None,):
        found = _frames_from(path, seek)
        first, display = next(found, (None, None))
        if first is None or display is None:
            if seek is None:
                raise MediaError("no frame of the video track can be decoded")
            continue
        due = begin + slack(first.frame.time_base)
        if seek is not None and first.time > due:
            continue  # some containers cannot seek, or land late: decode from the beginning
        frames = _shown_from(chain([first], (frame for frame, _ in found)), due, start)
        yield from _Looks(display).applied(frames if keep_fields else _progressive(frames))
        return


def key_frames(path: str | Path, most: int) -> Iterator[TimedFrame]:
    """At most `most` of the frames that decode alone, at equal distances, each with the fields made whole.

    They are sought, so that a long file costs no more than a short one. Frames of unknown time are left out; none may
    remain. Raises MediaError.
    """
    with open_video(path) as (container, stream, display):
        packets = read_packets(container, stream)
        stamps = [each.pts for each in packets if each.is_keyframe and each.pts is not None and not each.is_discard]
        origin, looks = timeline_origin(container), _Looks(display)
        for stamp in stamps[:: -(-len(stamps) // most) or 1]:
            container.seek(stamp, stream=stream)
            packet = next(read_packets(container, stream), None)
            time = None if packet is None else seconds(packet.pts, packet.time_base)
            if packet is None or time is None or not packet.size:
                continue
            for picture in [*decode_packet(container, packet), *stream.codec_context.decode(None)][:1]:
                shown = TimedFrame(cast(VideoFrame, picture), time - origin, frame_interval(stream))
                yield from looks.applied(_progressive(iter([shown])))


def _frames_from(path: str | Path, seek: Fraction | None) -> Iterator[tuple[TimedFrame, Display]]:
    """Frames and how each is shown; from the last keyframe before `seek` seconds where the file can go there."""
    for container, stream, begin, descriptor in open_parts(path, video_track):
        stream.thread_type = "AUTO"
        origin, display = timeline_origin(container) - begin, display_of(descriptor, container, stream)
        frames = _timed(container, stream, origin) if seek is None else _seek(container, stream, origin, seek)
        for shown in frames:
            yield shown, display


def _shown_from(frames: Iterator[TimedFrame], begin: Fraction, start: float | Fraction) -> Iterator[TimedFrame]:
    """`frames` from the one that is shown at `begin` on."""
    shown = next(frames)
    for frame in frames:
        if frame.time > begin:
            yield shown
        shown = frame
    end = shown.time + shown.duration
    if end <= begin:
        raise MediaError(f"the window begins at {float(start):.3f} s, but the video ends at {float(end):.3f} s")
    yield shown


def _progressive(frames: Iterator[TimedFrame]) -> Iterator[TimedFrame]:
    """`frames` deinterlaced, with their times."""
    waiting: deque[TimedFrame] = deque()

    def pictures() -> Iterator[VideoFrame]:
        for shown in frames:
            waiting.append(shown)
            yield shown.frame

    for picture in deinterlaced(pictures()):
        yield replace(waiting.popleft(), frame=picture)


class _Looks:
    """Gives frames the crop, pixel shape and colours that the container states."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._cropper: av.filter.Graph | None = None
        self._size = (0, 0)

    def applied(self, frames: Iterator[TimedFrame]) -> Iterator[TimedFrame]:
        for shown in frames:
            frame = self._cropped(shown.frame) if any(self._display.crop) else shown.frame
            yield replace(shown, frame=frame, aspect=self._display.aspect, matrix=self._display.tag(frame))

    def _cropped(self, frame: VideoFrame) -> VideoFrame:
        if self._cropper is None or self._size != (frame.width, frame.height):
            left, top, right, bottom = self._display.crop
            width, height = max(1, frame.width - left - right), max(1, frame.height - top - bottom)
            crop = ("crop", f"{width}:{height}:{left}:{top}:exact=1")
            self._cropper, self._size = filter_graph(frame, crop, ("copy", "")), (frame.width, frame.height)
        self._cropper.push(frame)
        return cast(VideoFrame, self._cropper.pull())


def window_frames(
    path: str | Path, start: float | Fraction, duration: float | Fraction, keep_fields: bool = False
) -> Iterator[TimedFrame]:
    """`video_frames` for a reader of a window of `duration` seconds. Raises MediaError if it reads far too many."""
    count = pixels = 0
    most_frames, most_pixels = window_limits(duration)
    for shown in video_frames(path, start, keep_fields):
        count, pixels = count + 1, pixels + shown.frame.width * shown.frame.height
        if count > most_frames or pixels > most_pixels:
            raise MediaError(
                f"the window has too many frames: {most_frames} are allowed, "
                f"with {most_pixels // 10**6} million pixels in all of them"
            )
        yield shown


def window_limits(duration: float | Fraction) -> tuple[int, int]:
    """The most frames of a window of `duration` seconds, and the most pixels in all of them."""
    seconds = Fraction(duration) + SPARE
    return int(MAX_FRAMES_A_SECOND * seconds), int(MAX_PIXELS_A_SECOND * seconds)


def _timed(container: InputContainer, stream: VideoStream, origin: Fraction) -> Iterator[TimedFrame]:
    """Decode, and give every frame a time that rises, also where the container has none or repeats itself."""
    interval = frame_interval(stream)
    waiting: tuple[VideoFrame, Fraction] | None = None
    for frame, stamp in _stamped(container, stream):
        if waiting is None:
            time = origin if stamp is None else stamp
        else:
            before, previous = waiting
            time = previous + interval if stamp is None or stamp <= previous else stamp
            yield TimedFrame(before, previous - origin, time - previous)
        waiting = frame, time
    if waiting is not None:
        last, time = waiting
        yield TimedFrame(last, time - origin, seconds(last.duration or None, last.time_base) or interval)


def _stamped(container: InputContainer, stream: VideoStream) -> Iterator[tuple[VideoFrame, Fraction | None]]:
    """Decoded frames and their time stamps in seconds.

    Some containers stamp packets in the order of decoding only. There the n-th frame shown takes the stamp of the n-th
    packet, whichever of them it was decoded from. An empty packet of Theora repeats the frame before.
    """
    repeats = stream.codec_context.name == THEORA
    if not repeats and not has_decode_times_only(container, stream):
        for frame in decoded(container, stream):
            assert isinstance(frame, VideoFrame)
            yield frame, seconds(frame.pts, frame.time_base)
        return
    shown: VideoFrame | None = None
    waiting: deque[tuple[Fraction | None, bool]] = deque()  # stamps, and whether each repeats the frame before
    for packet in read_packets(container, stream):
        stamp = seconds(packet.dts, packet.time_base)
        if packet.size or (repeats and stamp is not None):
            waiting.append((stamp, not packet.size))
        for frame in decode_packet(container, packet):
            assert isinstance(frame, VideoFrame)
            shown = frame
            yield frame, waiting.popleft()[0] if waiting else None
        while shown is not None and waiting and waiting[0][1]:
            yield shown, waiting.popleft()[0]


def _seek(container: InputContainer, stream: VideoStream, origin: Fraction, start: Fraction) -> Iterator[TimedFrame]:
    """The frames from the last keyframe before `start`; none if the container cannot go there."""
    if stream.time_base is None:
        return iter(())
    try:
        container.seek(int((origin + start) / stream.time_base), stream=stream)
    except av.FFmpegError:
        return iter(())
    return _timed(container, stream, origin)
