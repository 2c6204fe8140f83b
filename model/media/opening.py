"""Opening a media file, choosing its tracks and measuring them: the same for the probe and for the decoder.

Imports neither numpy nor torch. Every error is a MediaError in words for the file's owner.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import TypeVar

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from model.media import mp4_boxes, ogg_links
from model.media.containers import MP4, READABLE, STREAMED, UPLOAD, Signature, identify, open_options

Item = TypeVar("Item")

ENCRYPTED = "the file is encrypted (DRM)"
_ENCRYPTED_TAGS = ("encv", "enca", "drms", "drmi", "p608", "aavd", "adrm")
_PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails


class MediaError(ValueError):
    """A file that cannot give what is asked of it; the message is for its owner."""


def open_descriptor(
    descriptor: int,
    max_pixels: int,
    threads: int,
    link: tuple[int, int] | None = None,
    signature: Signature | None = None,
    options: dict[str, str] | None = None,
) -> InputContainer:
    """Open the file of an open descriptor for reading, by the one demuxer that its first bytes call for.

    `max_pixels` and `threads`: of its decoders. `link`: first byte and end of the part to read, for chained Ogg.
    `signature` and `options` replace those found here. One container of a descriptor can be read at a time. Raises
    MediaError.
    """
    signature = signature or identify(descriptor)
    if signature is None:
        raise MediaError(f"the file cannot be opened: it is not {READABLE}")
    options = open_options(descriptor) if options is None else options | {"fd": str(descriptor)}
    try:
        container = _open(descriptor, signature, link, options)
    except av.FFmpegError as error:
        raise MediaError(_why_closed(descriptor, signature, error)) from error
    for stream in (*container.streams.video, *container.streams.audio):
        if stream.codec_context is not None:
            stream.codec_context.options = {"max_pixels": str(max_pixels)}
            stream.codec_context.thread_count = threads
    return container


def _open(
    descriptor: int, signature: Signature, link: tuple[int, int] | None, options: dict[str, str]
) -> InputContainer:
    os.lseek(descriptor, 0, os.SEEK_SET)
    if link is not None:
        part = ogg_links.Part(descriptor, *link)
        del options["fd"]
        return av.open(part, "r", format=signature.demuxer, options=options, metadata_errors="replace")
    if signature.skip:
        options["skip_initial_bytes"] = str(signature.skip)
    return av.open(UPLOAD, format=signature.demuxer, options=options, metadata_errors="replace")


def links(descriptor: int) -> list[tuple[int, int] | None]:
    """The parts of a file that play one after another: those of a chained Ogg, else None, the whole file."""
    signature = identify(descriptor)
    if signature is None or signature.demuxer != "ogg" or signature.skip:
        return [None]
    found = ogg_links.find(descriptor)
    return list(found) if len(found) > 1 else [None]


def _why_closed(descriptor: int, signature: Signature, error: av.FFmpegError) -> str:
    if signature.demuxer == MP4:
        kinds = [kind for kind, _, _ in mp4_boxes.walk(descriptor)]
        if os.pread(descriptor, 12, 0)[8:] in (b"aax ", b"aaxc"):
            return ENCRYPTED
        if "moov" not in kinds and "moof" in kinds:
            return "the file is one segment of a stream, without the initialization segment that describes it"
        if "moov" not in kinds:
            return "the file is an unfinished recording or was cut off: its index (the moov box) is missing"
    return f"the file cannot be opened: {reason(error)}"


def reason(error: Exception) -> str:
    """Why the library failed, in our words."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == 12:
        return "it needs more memory than is allowed"
    if isinstance(error, av.PatchWelcomeError):
        return "it uses a feature of its format that is not supported"
    if isinstance(error, av.EOFError):
        return "it ends too early"
    if isinstance(error, av.FFmpegError):
        return "its data is damaged or incomplete"
    return str(error)


def checked(items: Iterable[Item]) -> Iterator[Item]:
    """Pass on packets or frames; errors while they are read are raised as MediaError."""
    try:
        yield from items
    except av.FFmpegError as error:
        raise MediaError(f"the file cannot be decoded: {reason(error)}") from error


def read_packets(container: InputContainer, stream: Stream) -> Iterator[Packet]:
    """The packets of a track. Raises MediaError where one is encrypted."""
    if stream.metadata.get("enc_key_id") or _tag(stream) in _ENCRYPTED_TAGS:
        raise MediaError(ENCRYPTED)
    for packet in checked(container.demux(stream)):
        if packet.has_sidedata("encryption_info"):
            raise MediaError(ENCRYPTED)
        yield packet


def decoded(container: InputContainer, stream: Stream) -> Iterator[av.AudioFrame | VideoFrame]:
    """The frames of a track. Where a format can be joined anywhere, packets that cannot be decoded are left out."""
    tolerant = container.format.name in STREAMED
    for packet in read_packets(container, stream):
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            if tolerant and isinstance(error, av.InvalidDataError):
                continue
            raise MediaError(f"the file cannot be decoded: {reason(error)}") from error
        yield from frames


def moving_tracks(container: InputContainer) -> list[VideoStream]:
    """Video tracks without attached pictures, the one that players choose first."""
    return _preferred([stream for stream in container.streams.video if not stream.disposition & _PICTURES])


def sound_tracks(container: InputContainer) -> list[AudioStream]:
    """Audio tracks, the one that players choose first."""
    return _preferred(list(container.streams.audio))


Track = TypeVar("Track", VideoStream, AudioStream)


def _preferred(tracks: list[Track]) -> list[Track]:
    """Those with a known codec first, then those flagged as default, then by number."""
    return sorted(tracks, key=lambda one: (one.codec_context is None, not one.disposition & Disposition.default))


def video_track(container: InputContainer) -> VideoStream:
    """The video track that players choose. Raises MediaError if there is none that can be decoded."""
    return _first(moving_tracks(container), "video")


def audio_tracks(container: InputContainer) -> tuple[AudioStream, ...]:
    """The audio track that players choose; two if it is the left or right channel alone and the other is flagged so.

    Raises MediaError if there is none that can be decoded.
    """
    tracks = sound_tracks(container)
    first = _first(tracks, "audio")
    sides = {"FL": "FR", "FR": "FL"}
    other = sides.get(_single_channel(first))
    if other is None:
        return (first,)
    pair = (each for each in tracks if _single_channel(each) == other and each.rate == first.rate)
    second = next(pair, None)
    if second is None:
        return (first,)
    return (first, second) if other == "FR" else (second, first)


def _single_channel(track: AudioStream) -> str:
    channels = track.codec_context.layout.channels if track.codec_context is not None else ()
    return channels[0].name if len(channels) == 1 else ""


def _first(tracks: list[Track], what: str) -> Track:
    if not tracks:
        raise MediaError(f"the file has no {what} track")
    if tracks[0].codec_context is None:
        raise MediaError(f"the codec of the file's {what} track is not supported")
    return tracks[0]


def _tag(stream: Stream) -> str:
    context = stream.codec_context
    return "" if context is None else context.codec_tag.strip("\0")


def timeline_origin(container: InputContainer) -> Fraction:
    """The time stamp, in seconds, of what a player shows as 0: the earliest beginning of a video or audio track."""
    tracks = (stream for stream in container.streams if stream.type in ("video", "audio"))
    starts = (seconds(stream.start_time, stream.time_base) for stream in tracks if not stream.disposition & _PICTURES)
    return min((start for start in starts if start is not None), default=Fraction(0))


def seconds(ticks: int | None, time_base: Fraction | None) -> Fraction | None:
    """A time stamp in seconds; None where the container gives none."""
    return None if ticks is None or time_base is None else ticks * time_base


def track_end(container: InputContainer, track: Stream, descriptor: int, cpu_seconds: float | None = None) -> Fraction:
    """Seconds on the player's timeline at which `track` ends.

    An MP4's sample table says it. Elsewhere lengths are estimates or claims: packets are counted, which reads the file
    to its end. Raises MediaError if that takes more than `cpu_seconds` of processing time.
    """
    origin, base = timeline_origin(container), track.time_base
    if container.format.name == MP4 and track.duration and base and not mp4_boxes.is_fragmented(descriptor):
        return (track.start_time or 0) * base + track.duration * base - origin
    began = time.process_time()
    end = offset = Fraction(0)
    last: Fraction | None = None
    for count, packet in enumerate(read_packets(container, track)):
        stays = (packet.duration or 0) * packet.time_base if packet.size else Fraction(0)
        stamp = packet.dts if packet.pts is None else packet.pts
        if stamp is not None and packet.size:
            at = stamp * packet.time_base - origin
            if last is not None and at < last - 1:  # the stamps begin again
                offset = end - at
            last = at
            end = max(end, at + offset + stays)
        else:
            end += stays
        if cpu_seconds is not None and count % 256 == 0 and time.process_time() - began > cpu_seconds:
            raise MediaError(
                f"the file has too many packets: its length was not known after {cpu_seconds:g} s of processing"
            )
    return end
