"""Muxes the user's frames with a new sound (v2a), and new frames with the user's sound (a2v).

An H.264 stream is copied where an exact cut is possible. Otherwise its frames are re-encoded without visible loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from math import ceil
from pathlib import Path
from typing import TypeVar

import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange
from av.video.stream import VideoStream
from torch import Tensor

from model.media import encode
from model.media.fields import is_top_first
from model.media.frames import TimedFrame, window_frames
from model.media.lengths import timeline_origin
from model.media.opening import read_packets
from model.media.paced_sound import PacedSound, Samples
from model.media.side_data import side_data
from model.media.source import Sound, open_video, read_sound, slack

Item = TypeVar("Item")
Change = Callable[
    [Iterator[tuple[TimedFrame, Fraction, Fraction]], Fraction], Iterator[tuple[TimedFrame, Fraction, Fraction]]
]

LOOK_AHEAD = 16
"""Frames after the window that are checked for reordering: H.264 reorders at most this many (ITU-T H.264, A.3)."""

STEADY = Fraction(1, 1000)
"""Seconds by which two intervals of a constant rate differ at most, where a container rounds to milliseconds."""

TOP_FIRST, BOTTOM_FIRST = 2, 3
"""The library's codes for tracks of which the top or the bottom field comes first. Others are used in either sense."""

FIELD_ROWS = 4
"""H.264 has no interlaced picture in 4:2:0 whose height is not a multiple of this (ITU-T H.264, 7.4.2.1.1)."""

NOT_FOR_SDR = (4, 5)
"""Dolby Vision profiles whose base layer alone is not shown in its true colours."""

SLIVER = Fraction(1, 50)
"""Least seconds of a last frame, where the window does not begin with a frame."""

CLOCK = 90_000
"""Hertz, at least, of time stamps that do not fit the source's own."""

IDR = 5
"""NAL unit type of a picture that no later picture refers past (ITU-T H.264, table 7-1)."""


def mux_v2a(
    source: str | Path,
    start: float,
    duration: float,
    audio: np.ndarray | Tensor | Path | Sound,
    sample_rate: int,
    path: str | Path,
    comment: str,
    change: Change | None = None,
    least: float = 0.0,
) -> str:
    """Write the frames of `source` in [start, start + duration) seconds with `audio` (channels, samples) as the sound,
    or a file of it (float32, one channel), or a Sound; silence follows. `change` is given the frames and their rate,
    and returns the frames to write; they are re-encoded then.

    The frame shown at `start` is the first, at time 0, and stays until its own end; size, intervals, orientation, pixel
    shape and colour tags stay. A source that ends early ends the sound with it, but not before `least` seconds.

    Returns "copied" if the stream went over bit by bit: H.264, 8-bit 4:2:0, no B-frames (cutting between those by time
    tears frames from the ones they refer to), beginning on an IDR frame, not cropped by the container. Otherwise
    "re-encoded", at CRF 12, followed by the looks that could not be kept; a frame of odd sides gets its last row or
    column once more. Raises MediaError if there is no such window.
    """
    begin, window = Fraction(start), Fraction(duration)
    if isinstance(audio, Sound):
        sound = Samples.of_sound(audio)
    else:
        samples = np.memmap(audio, np.float32, "r")[None] if isinstance(audio, Path) else audio
        sound = Samples.of_array(samples, sample_rate)
    with open_video(source) as (container, stream, display):
        cut = None if any(display.crop) or change is not None else _copyable(container, stream, begin, window)
        rate, order = stream.average_rate or Fraction(25), stream.codec_context.field_order
        assert stream.time_base is not None
        grid = stream.time_base
    if cut is not None:
        with open_video(source) as (container, stream, _):
            _write_copy(stream, cut.packets(container, stream), cut.grid, sound, path, comment, Fraction(least))
        return "copied"

    def write(fields: str | None = None, keep_fields: bool = True) -> None:
        shown = ((each, each.time, each.duration) for each in window_frames(source, begin, window, keep_fields))
        frames = _window(shown, begin, window, grid)
        first = next(frames)
        frames = chain([first], frames)
        if change is not None:
            frames = change(frames, rate)
        _write_encoded(frames, first[0], rate, grid, fields, sound, path, comment, Fraction(least))

    changes = ["re-encoded"]
    try:
        write()
    except _InterlacedError as found:
        if found.frame.height % FIELD_ROWS or display.crop[1] % FIELD_ROWS:
            write(keep_fields=False)
            changes.append("deinterlaced")
        else:
            is_known = order in (TOP_FIRST, BOTTOM_FIRST)
            write("tff=1" if (order == TOP_FIRST if is_known else is_top_first(found.frame)) else "bff=1")
    if display.dolby_vision in NOT_FOR_SDR:
        changes.append(f"colours wrong (Dolby Vision profile {display.dolby_vision} is not supported)")
    return ", ".join(changes)


def mux_a2v(
    video: str | Path, source: str | Path, start: float, duration: float, path: str | Path, comment: str
) -> str:
    """Write the frames of `video`, as `encode.clip_writer` writes them without sound, with the sound of `source` in
    [start, start + duration) s.

    Its sample rate and channels stay where AAC supports them (`AacTrack`). Silence follows a sound that ends before
    the last frame does.
    Returns the conversions in words, empty if there was none. Raises MediaError if there is no such window.
    """
    heard = read_sound(source, Fraction(start), Fraction(duration), Path(path).parent)
    with open_video(video) as (container, stream, _):
        assert stream.average_rate is not None
        sound = Samples.of_sound(heard)
        changes = _write_copy(
            stream, _own_packets(container, stream), 1 / stream.average_rate, sound, path, comment, Fraction(duration)
        )
    if not heard.converted:
        return changes
    change = f"{heard.converted} within the window converted to {heard.sample_rate} Hz {heard.layout} in both files"
    return f"{change}, {changes}" if changes else change


def cut_wav(source: str | Path, start: float, duration: float, path: str | Path) -> None:
    """Write the sound of `source` in [start, start + duration) seconds to a WAV file, sample by sample as decoded.

    PCM stays at its own width; MP3, AAC and the like decode to floating point, and so does the file. Raises MediaError
    if there is no such window.
    """
    sound = read_sound(source, Fraction(start), Fraction(duration), Path(path).parent)
    encode.write_pcm(path, sound.pieces(), sound.sample_rate, sound.format, sound.layout)


def _own_packets(container: InputContainer, stream: VideoStream) -> Iterator[tuple[Packet, Fraction, Fraction]]:
    """(packet, time, duration) of a file that `encode.clip_writer` wrote."""
    grid = stream.time_base
    assert grid is not None
    for packet in read_packets(container, stream):
        if packet.pts is not None and packet.duration is not None:
            packet.is_keyframe = _is_idr(
                bytes(packet), length_bytes=4
            )  # the library also takes other I pictures for it
            yield packet, packet.pts * grid, packet.duration * grid


class _InterlacedError(Exception):
    """`frame` is interlaced, but the encoder was not set up for fields."""

    def __init__(self, frame: VideoFrame) -> None:
        super().__init__("a frame is interlaced")
        self.frame = frame


@dataclass(frozen=True)
class _Cut:
    """Packets that stand alone: those with the `stamps`, from packet number `first` of the track on. The last one stays
    for `last`; all in units of the `time_base`, the times of a timeline that begins at `origin` seconds."""

    first: int
    stamps: Sequence[int]
    last: int
    time_base: Fraction
    origin: Fraction
    start: Fraction
    duration: Fraction

    @property
    def grid(self) -> Fraction:
        """The unit of time stamps of the result."""
        return _grid(self.time_base, self._time(self.stamps[0]), self.start)

    def packets(self, container: InputContainer, stream: VideoStream) -> Iterator[tuple[Packet, Fraction, Fraction]]:
        """They, in order: (packet, seconds at which it appears, seconds for which it stays)."""
        ends = chain(self.stamps[1:], [self.stamps[-1] + self.last])
        timed = (
            (packet, self._time(stamp), (end - stamp) * self.time_base)
            for packet, stamp, end in zip(
                islice(_shown_packets(container, stream), self.first, None), self.stamps, ends, strict=False
            )
        )
        return _window(timed, self.start, self.duration, self.time_base)

    @property
    def first_end(self) -> Fraction:
        """Seconds at which the first one ends."""
        return self._time(self.stamps[1] if len(self.stamps) > 1 else self.stamps[0] + self.last)

    def _time(self, stamp: int) -> Fraction:
        return stamp * self.time_base - self.origin


def _shown_packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet]:
    return (each for each in read_packets(container, stream) if each.dts is not None and not each.is_discard)


def _copyable(container: InputContainer, stream: VideoStream, start: Fraction, duration: Fraction) -> _Cut | None:
    """The packets shown in the window; None if they cannot be cut out exactly."""
    context, time_base = stream.codec_context, stream.time_base
    if context.name != "h264" or context.pix_fmt not in ("yuv420p", "yuvj420p") or context.has_b_frames:
        return None
    head = context.extradata or b""
    if len(head) < 7 or head[0] != 1 or time_base is None:  # NAL units without lengths (ISO/IEC 14496-15)
        return None
    tolerance, origin = slack(time_base), timeline_origin(container)
    stamps: list[int] = []
    first, opening, last, beyond = 0, b"", 0, 0
    for number, packet in enumerate(_shown_packets(container, stream)):
        if packet.pts is None or packet.is_corrupt:
            return None
        if stamps and packet.pts <= stamps[-1]:
            return None
        time = packet.pts * time_base - origin
        if time <= start + tolerance:
            first, opening = number, bytes(packet)
            stamps.clear()
        stamps.append(packet.pts)
        last = packet.duration or 0
        beyond += time >= start + duration
        if beyond == LOOK_AHEAD:
            break
    if not stamps or not _is_idr(opening, length_bytes=(head[4] & 3) + 1):
        return None
    cut = _Cut(first, stamps, last, time_base, origin, start, duration)
    if cut.first_end <= start + tolerance:
        return None  # the window begins after the end, or the end is not known: decoding will tell
    return cut


def _window(
    shown: Iterator[tuple[Item, Fraction, Fraction]], start: Fraction, duration: Fraction, time_base: Fraction
) -> Iterator[tuple[Item, Fraction, Fraction]]:
    """What of `shown` (item, time, duration) is seen in [start, start + duration), timed from the start of the window.

    The first item stays until its own end only. Where the start cut it short, the window ends after `duration` exactly,
    and a last item that would flash up for less than SLIVER is left out. Otherwise the last one ends as
    `_last_duration` says.
    """
    zero: Fraction | None = None
    cut, interval = False, Fraction(0)
    for item, appears, stays in shown:
        if zero is None:
            cut = abs(appears - start) > STEADY
            zero = start if cut else appears
        time = max(Fraction(0), appears - zero)
        own = appears + stays - zero - time
        if time + own >= duration - (SLIVER if cut else slack(time_base)):
            yield item, time, duration - time if cut else _last_duration(time, own, interval, duration)
            return
        yield item, time, own
        interval = own


def _last_duration(time: Fraction, own: Fraction, interval: Fraction, window: Fraction) -> Fraction:
    """Seconds for which the last frame stays that appears `time` after the first and `interval` after the one before.

    At a constant rate as long as the source shows it (`own`), a little beyond a window that is no whole number of
    frames: cut shorter it would change the rate. Where the rate varies it ends with the window.
    """
    constant = abs(own - interval) <= STEADY
    return own if constant else min(own, window - time)


def _grid(time_base: Fraction, first: Fraction, start: Fraction) -> Fraction:
    """The unit of time stamps: the source's, or a fraction of it where the window does not begin with a frame."""
    return time_base if abs(first - start) <= STEADY else _finer(time_base)


def _finer(time_base: Fraction) -> Fraction:
    """A unit of at most 1/CLOCK seconds in which all multiples of `time_base` are whole numbers."""
    return Fraction(1, time_base.denominator * ceil(Fraction(CLOCK, time_base.denominator)))


def _stamps(time: Fraction, duration: Fraction, grid: Fraction) -> tuple[int, int]:
    """Time stamp and duration in units of `grid`, so that one frame ends exactly where the next begins."""
    pts = round(time / grid)
    return pts, max(1, round((time + duration) / grid) - pts)


def _is_idr(data: bytes, length_bytes: int) -> bool:
    """Whether a packet has an IDR picture; NAL units with lengths of so many bytes."""
    position = 0
    while position + length_bytes < len(data):
        if data[position + length_bytes] & 0x1F == IDR:
            return True
        position += length_bytes + int.from_bytes(data[position : position + length_bytes], "big")
    return False


def _write_copy(
    source: VideoStream,
    packets: Iterator[tuple[Packet, Fraction, Fraction]],
    grid: Fraction,
    samples: Samples,
    path: str | Path,
    comment: str,
    least: Fraction = Fraction(0),
) -> str:
    """Write `packets` (packet, time, duration) of the track `source`, with times in units of `grid` seconds. The sound
    ends with the last of them, but not before `least` seconds. Returns in words how the sound was changed."""
    with encode.new_mp4(path, comment) as container:
        video = container.add_stream_from_template(source)
        if source.sample_aspect_ratio:  # the container's outranks the codec's
            video.codec_context.sample_aspect_ratio = source.sample_aspect_ratio
        video.time_base = grid
        sound = PacedSound(container, samples)
        end = least
        for packet, time, duration in packets:
            pts, stays = _stamps(time, duration, grid)
            packet.pts = packet.dts = pts
            packet.duration, packet.time_base, packet.stream = stays, grid, video
            container.mux(packet)
            sound.follow(time)
            end = max(least, time + duration)
        sound.finish(end)
    return sound.track.changes


def _write_encoded(
    frames: Iterator[tuple[TimedFrame, Fraction, Fraction]],
    looks: TimedFrame,
    rate: Fraction,
    grid: Fraction,
    fields: str | None,
    samples: Samples,
    path: str | Path,
    comment: str,
    least: Fraction,
) -> None:
    """Encode `frames` (frame, time, duration) of about `rate` hertz, of a source with time stamps in units of `grid`
    seconds and with the `looks` of this frame. Times between those, of frames that share a stamp, are kept to 1/CLOCK
    seconds.

    `fields`: x264's parameter for interlaced pictures. Without it, raises _InterlacedError for the first such frame.
    """
    picture = looks.frame
    grid = _finer(grid)
    parameters = ":".join(([fields] if fields else []) + _light(picture))
    with encode.new_mp4(path, comment) as container:
        video = encode.H264Track(container, picture.width, picture.height, rate, grid, parameters)
        _keep_looks(video, looks)
        sound = PacedSound(container, samples)
        end, last = least, -1
        for shown, time, duration in frames:
            if shown.frame.interlaced_frame and not fields:
                raise _InterlacedError(shown.frame)
            end = max(least, time + duration)
            pts, stays = _stamps(time, duration, grid)
            last = max(pts, last + 1)
            converted = _as_yuv420(shown.frame, picture.width, picture.height)
            container.mux(video.add(converted, last, max(1, pts + stays - last)))
            sound.follow(time)
        container.mux(video.finish())
        sound.finish(end)


def _keep_looks(video: encode.H264Track, first: TimedFrame) -> None:
    """Copy colour tags, pixel aspect and display matrix of the source to the new track."""
    context, frame = video.stream.codec_context, first.frame
    if _has_rgb_colours(frame):
        video.tag_bt709()
    else:
        context.colorspace, context.color_primaries = first.matrix, frame.color_primaries
        context.color_trc, context.color_range = frame.color_trc, _range(frame)
    context.sample_aspect_ratio = first.aspect
    video.stream.set_display_matrix(first.display_matrix)


def _as_yuv420(frame: VideoFrame, width: int, height: int) -> VideoFrame:
    """The same picture as 8-bit 4:2:0 in the same colours; the same object where it is that already."""
    if frame.format.name in ("yuv420p", "yuvj420p") and (frame.width, frame.height) == (width, height):
        return frame
    if _has_rgb_colours(frame):
        return encode.rgb_to_yuv(frame, width, height)
    return frame.reformat(
        width, height, "yuv420p", interpolation=encode.EXACT, dst_color_range=_range(frame), threads=1
    )


def _has_rgb_colours(frame: VideoFrame) -> bool:
    """True for RGB and for palettes of RGB colours."""
    return frame.format.is_rgb or frame.format.has_palette


def _light(frame: VideoFrame) -> list[str]:
    """x264's parameters for the mastering display and the light level that an HDR frame carries (SMPTE ST 2086)."""
    held = side_data(frame)
    parameters = []
    mastering = held.get("MASTERING_DISPLAY_METADATA")
    if mastering is not None:
        *fractions, has_primaries, has_luminance = np.frombuffer(mastering, np.int32)[:22].tolist()
        values = [n / d if d else 0.0 for n, d in zip(fractions[::2], fractions[1::2], strict=True)]
        if has_primaries and has_luminance:
            rx, ry, gx, gy, bx, by, wx, wy = (round(value * 50_000) for value in values[:8])
            darkest, brightest = (round(value * 10_000) for value in values[8:])
            display = f"G({gx},{gy})B({bx},{by})R({rx},{ry})WP({wx},{wy})L({brightest},{darkest})"
            parameters.append(f"mastering-display={display}")
    level = held.get("CONTENT_LIGHT_LEVEL")
    if level is not None:
        brightest_pixel, brightest_frame = np.frombuffer(level, np.uint32)[:2].tolist()
        parameters.append(f"cll={brightest_pixel},{brightest_frame}")
    return parameters


def _range(frame: VideoFrame) -> int:
    """Limited or full; the formats whose names begin with yuvj are full, whatever their tag."""
    return ColorRange.JPEG if frame.format.name.startswith("yuvj") else frame.color_range
