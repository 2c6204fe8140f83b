"""Opens a media file and reads its packets and frames: the same for the probe and for the decoder.

Imports neither numpy nor torch. Every error is a MediaError in words for the file's owner.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame

from model.media import codec_names, mp4_boxes, ogg_links, transport_stream
from model.media.containers import MP4, READABLE, STREAMED, UPLOAD, Signature, identify, open_options

ENCRYPTED = "the file is encrypted (DRM)"
_KEY = "enc_key_id"
"""Metadata of a stream that is encrypted, as the library writes it for some containers."""

UNSUPPORTED_CODEC = "duet_codec"
"""Metadata of a stream whose codec has no decoder: the codec's name."""


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
    _note_codecs(container, descriptor, signature)
    return container


def _note_codecs(container: InputContainer, descriptor: int, signature: Signature) -> None:
    """Write to the metadata of each stream whether it is encrypted, and the name of a codec without a decoder."""
    audible = [stream for stream in container.streams if stream.type in ("video", "audio")]
    tags = codec_names.tags(container) if signature.demuxer == MP4 else {}
    pids = transport_stream.scrambled_pids(descriptor, signature.skip) if signature.demuxer == "mpegts" else set()
    names = {}
    if any(stream.codec_context is None for stream in audible):
        names = codec_names.find(container, descriptor)
    for stream in audible:
        if tags.get(stream.index) in codec_names.ENCRYPTED_TAGS or (pids and stream.id in pids):
            stream.metadata[_KEY] = ""
        if stream.codec_context is None:
            stream.metadata[UNSUPPORTED_CODEC] = names.get(stream.index, "unknown")


def is_encrypted(stream: Stream) -> bool:
    """True if the file says that the track is encrypted."""
    return _KEY in stream.metadata


def _open(
    descriptor: int, signature: Signature, link: tuple[int, int] | None, options: dict[str, str]
) -> InputContainer:
    os.lseek(descriptor, 0, os.SEEK_SET)
    if link is not None:
        part = ogg_links.ByteRange(descriptor, *link)
        del options["fd"]
        return av.open(part, "r", format=signature.demuxer, options=options, metadata_errors="replace")
    if signature.skip:
        options["skip_initial_bytes"] = str(signature.skip)
    return av.open(UPLOAD, format=signature.demuxer, options=options, metadata_errors="replace")


def links(descriptor: int) -> list[tuple[int, int] | None]:
    """The parts of a file that play one after another: those of a chained Ogg, else None, the whole file."""
    signature = identify(descriptor)
    if signature is None or signature.demuxer != "ogg":
        return [None]
    found = ogg_links.find(descriptor, signature.skip)
    return list(found) if len(found) > 1 else [None]


def _why_closed(descriptor: int, signature: Signature, error: av.FFmpegError) -> str:
    if signature.demuxer == MP4:
        kinds = [kind for kind, _, _ in mp4_boxes.walk(descriptor)]
        if os.pread(descriptor, 12, 0)[8:] in (b"aax ", b"aaxc"):
            return ENCRYPTED
        if "moov" not in kinds and "moof" in kinds:
            return "the file is one segment of a stream, without the initialization segment that describes it"
        if "moov" in kinds and codec_names.has_encrypted_entry(descriptor):
            return ENCRYPTED
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


def read_packets(container: InputContainer, stream: Stream) -> Iterator[Packet]:
    """The packets of a track. Raises MediaError where one is encrypted or cannot be read.

    Where a format can be joined anywhere, what cannot be read ends the track: it may be anything.
    """
    if is_encrypted(stream):
        raise MediaError(ENCRYPTED)
    found = False
    try:
        for packet in container.demux(stream):
            if packet.has_sidedata("encryption_info"):
                raise MediaError(ENCRYPTED)
            found = True
            yield packet
    except (av.InvalidDataError, av.BlockingIOError) as error:
        if not found or container.format.name not in STREAMED:
            raise _undecodable(error) from error
    except av.FFmpegError as error:
        raise _undecodable(error) from error


def _undecodable(error: av.FFmpegError) -> MediaError:
    return MediaError(f"the file cannot be decoded: {reason(error)}")


def decoded(container: InputContainer, stream: Stream) -> Iterator[av.AudioFrame | VideoFrame]:
    """The frames of a track, without those that `decode_packet` leaves out."""
    for packet in read_packets(container, stream):
        yield from decode_packet(container, packet)


def decode_packet(container: InputContainer, packet: Packet) -> Sequence[av.AudioFrame | VideoFrame]:
    """The frames that a packet completes. Raises MediaError if its data is damaged.

    Damaged packets are left out where a format can be joined anywhere, and the last one of a file that was cut off.
    """
    joinable = container.format.name in STREAMED
    if not packet.size and packet.dts is not None:
        return []  # only the packet that ends a track may be empty
    if packet.is_corrupt and not joinable and packet.stream.type == "video":
        return []
    try:
        return packet.decode()
    except av.FFmpegError as error:
        if isinstance(error, av.InvalidDataError) and (joinable or packet.is_corrupt):
            return []
        raise _undecodable(error) from error
