"""One timeline for all tracks of a file, and where each ends on it."""

from __future__ import annotations

import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from math import floor

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from model.media import frame_headers, mp4_boxes
from model.media.containers import MATROSKA, MP4, STREAMED
from model.media.opening import MediaError, links, read_packets
from model.media.tracks import is_picture, moving_tracks, sound_tracks

Rational = int | Fraction

GAP = Fraction(1, 20)
"""Seconds that a sound's time stamps may be off before they count as a hole. Below that it is rounding."""

RESTART = 1
"""Seconds by which time stamps go back where another recording was appended."""

THEORA = "theora"
"""The codec in which an empty packet repeats the frame before."""

UNSTAMPED = ("mp3", "aac")
"""Demuxers of frames without time stamps: the library's take the first frame's sample rate for that of all."""

TAIL = 24
"""Packets at the end of a sound that are decoded: the last of a file that was cut off may be incomplete."""

CHECK_EVERY = 256
"""Packets between two looks at the processing time."""


class SoundClock:
    """Places the pieces of a sound one after another, in units of `unit` seconds.

    `end`: where the last of them ends. `exact`: the durations are those of samples, so that stamps that differ a little
    from the end of the piece before are rounded; otherwise the durations are.
    """

    def __init__(self, offset: Rational = 0, unit: Fraction = Fraction(1), exact: bool = True) -> None:
        self.end: Rational | None = None
        self._offset = offset
        self._gap, self._restart = (GAP / unit if exact else None), RESTART / unit

    def place(self, stamp: Rational | None, duration: Rational) -> Rational:
        """Where a piece with this time stamp begins. Larger jumps are holes; stamps that begin again continue."""
        before = self.end
        if before is None:
            begin = self._offset if stamp is None else stamp + self._offset
        elif stamp is None:
            begin = before
        else:
            due = stamp + self._offset
            if due < before - self._restart:
                self._offset += before - due
                due = before
            begin = due if self._gap is None or due > before + self._gap else before
        self.end = begin + duration
        return begin


class Budget:
    """CPU seconds that counting packets may take, of this process, from now on."""

    def __init__(self, cpu_seconds: float) -> None:
        self._cpu_seconds = cpu_seconds
        self._until = time.process_time() + cpu_seconds

    def check(self) -> None:
        """Raises MediaError if they are spent."""
        if time.process_time() > self._until:
            raise MediaError(
                f"the file has too many packets: its length was not known after {self._cpu_seconds:g} s of processing"
            )


def seconds(ticks: int | None, time_base: Fraction | None) -> Fraction | None:
    """A time stamp in seconds; None where the container gives none."""
    return None if ticks is None or time_base is None else ticks * time_base


def timeline_origin(container: InputContainer) -> Fraction:
    """The time stamp, in seconds, of what a player shows as 0: the earliest beginning of a video or audio track."""
    tracks = (stream for stream in container.streams if stream.type in ("video", "audio") and not is_picture(stream))
    starts = (seconds(stream.start_time, stream.time_base) for stream in tracks)
    return min((start for start in starts if start is not None), default=Fraction(0))


def has_decode_times_only(container: InputContainer, stream: Stream) -> bool:
    """True for AVI, and for the tracks of Matroska that were taken from AVI: those have its four-letter codec tag."""
    name = container.format.name
    return name == "avi" or (name == MATROSKA and bool(stream.codec_context.codec_tag.strip("\0")))


def track_end(
    container: InputContainer, track: VideoStream | AudioStream, descriptor: int, budget: Budget | None = None
) -> Fraction:
    """Seconds on the player's timeline at which `track` ends.

    The sample table of an MP4 says it. Elsewhere lengths are estimates or claims: packets are counted, which reads the
    file to its end. Raises MediaError if that takes more than `budget`.
    """
    origin, base = timeline_origin(container), track.time_base
    if container.format.name == MP4 and track.duration and base and not mp4_boxes.is_fragmented(descriptor):
        return (track.start_time or 0) * base + track.duration * base - origin
    if isinstance(track, AudioStream):
        return _sound_end(container, track, budget)
    return _video_end(container, track, origin, budget)


def _video_end(container: InputContainer, track: VideoStream, origin: Fraction, budget: Budget | None) -> Fraction:
    base = track.time_base or Fraction(1, av.time_base)
    start, restart, interval = origin / base, RESTART / base, frame_interval(track) / base
    repeats = track.codec_context is not None and track.codec_context.name == THEORA  # by an empty packet
    by_decoding, whole = has_decode_times_only(container, track), container.format.name not in STREAMED
    end = offset = Fraction(0)
    last: Fraction | None = None
    for count, packet in enumerate(read_packets(container, track)):
        if budget is not None and count % CHECK_EVERY == 0:
            budget.check()
        if (
            packet.is_discard
            or (packet.is_corrupt and whole)
            or not (packet.size or (repeats and packet.dts is not None))
        ):
            continue
        stays = packet.duration or interval
        stamp = packet.dts if by_decoding or packet.pts is None else packet.pts
        if stamp is None:
            end += stays
            continue
        at = stamp - start
        if last is not None and at < last - restart:  # the stamps begin again
            offset = end - at
        last = at
        end = max(end, at + offset + stays)
    return end * base


def frame_interval(track: VideoStream) -> Fraction:
    """Seconds for which a frame stays where the file does not say it."""
    return 1 / (track.average_rate or track.guessed_rate or Fraction(25))


def _sound_end(container: InputContainer, track: AudioStream, budget: Budget | None) -> Fraction:
    unit = track.time_base or Fraction(1, av.time_base)
    start = sound_origin(container) / unit
    clock, tail = SoundClock(-start, unit, exact=False), deque[tuple[Packet, Rational]](maxlen=TAIL)
    skip: Rational = 0
    for count, packet in enumerate(read_packets(container, track)):
        if budget is not None and count % CHECK_EVERY == 0:
            budget.check()
        if not packet.size or packet.is_discard:
            continue
        stamp, duration = _sound_times(container, packet, unit)
        if packet.has_sidedata("skip_samples"):
            first, last = struct.unpack("<II", bytes(packet.get_sidedata("skip_samples"))[:8])
            skip += Fraction(first, track.rate or 1) / unit
            cut = Fraction(last, track.rate or 1) / unit
            duration = duration - cut if cut < duration else 0
        if skip:
            skipped = skip if skip < duration else duration
            skip, duration = skip - skipped, duration - skipped
            stamp = None if stamp is None else stamp + floor(skipped + Fraction(1, 2))  # as the decoder rounds
        tail.append((packet, clock.place(stamp, duration)))
    return _decoded_end(track, tail, unit) or (clock.end or 0) * unit


def _sound_times(container: InputContainer, packet: Packet, unit: Fraction) -> tuple[Rational | None, Rational]:
    """Time stamp and duration of a packet in units of `unit` seconds."""
    if container.format.name in UNSTAMPED:
        return None, frame_headers.seconds(memoryview(packet)) / unit
    return packet.dts if packet.pts is None else packet.pts, packet.duration or 0


def sound_origin(container: InputContainer) -> Fraction:
    """The time stamp, as `sound_stamp` gives them, of what a player shows as 0."""
    return Fraction(0) if container.format.name in UNSTAMPED else timeline_origin(container)


def sound_stamp(container: InputContainer, frame: AudioFrame) -> Fraction | None:
    """The time stamp of a decoded frame in seconds; None where the frames just follow each other."""
    return None if container.format.name in UNSTAMPED else seconds(frame.pts, frame.time_base)


def _decoded_end(track: AudioStream, tail: Iterable[tuple[Packet, Rational]], unit: Fraction) -> Fraction | None:
    """Seconds at which the last samples end that the packets of `tail` decode to; None if they give none."""
    end: Fraction | None = None
    for packet, begin in tail:
        try:
            frames = packet.decode()
        except av.FFmpegError:
            continue
        if frames:
            end = begin * unit + _sounding(frames)
    if end is None:
        return None
    try:
        return end + _sounding(track.codec_context.decode(None))
    except av.FFmpegError:
        return end


def _sounding(frames: Iterable[AudioFrame | VideoFrame]) -> Fraction:
    lengths = (Fraction(frame.samples, frame.sample_rate) for frame in frames if isinstance(frame, AudioFrame))
    return sum(lengths, Fraction(0))


@dataclass(frozen=True)
class Part:
    """Part of a file that plays after others, from `begin` seconds on.

    `link`: its first byte and end, None for the whole file.
    """

    link: tuple[int, int] | None
    begin: Fraction


def parts(
    descriptor: int, open_part: Callable[[tuple[int, int] | None], InputContainer], budget: Budget | None = None
) -> Iterator[Part]:
    """The parts of a file, one after another: the links of a chained Ogg, or the file itself.

    A part begins where the longest track of the one before ends. `open_part` opens one for reading. Raises MediaError.
    """
    begin = Fraction(0)
    found = links(descriptor)
    for number, link in enumerate(found):
        yield Part(link, begin)
        if number + 1 < len(found):
            begin += _longest(descriptor, partial(open_part, link), budget)


def _longest(descriptor: int, open_link: Callable[[], InputContainer], budget: Budget | None) -> Fraction:
    """Seconds at which the longer of a link's video and audio ends."""
    with open_link() as container:
        tracks = [each[0] for each in (moving_tracks(container), sound_tracks(container)) if each]
        known = [track.index for track in tracks if track.codec_context is not None]
    ends = [Fraction(0)]
    for index in known:
        with open_link() as container:
            track = container.streams[index]
            assert isinstance(track, VideoStream | AudioStream)
            ends.append(track_end(container, track, descriptor, budget))
    return max(ends)
