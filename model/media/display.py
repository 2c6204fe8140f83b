"""How a container says that the stored pictures of its video track are shown: cropped, stretched, in which colours.

The decoder's binding does not tell all of it, so the boxes of MP4 (ISO/IEC 14496-12) and the elements of Matroska (RFC
9559) are read here. Imports neither numpy nor torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from model.media import mp4_boxes
from model.media.containers import MATROSKA, MP4

SEGMENT, TRACKS, TRACK, VIDEO, CLUSTER = 0x18538067, 0x1654AE6B, 0xAE, 0xE0, 0x1F43B675
CROPS = (0x54CC, 0x54BB, 0x54DD, 0x54AA)
"""Element IDs of the pixels cut off at the left, top, right and bottom (PixelCropLeft …)."""
BLOCK_ADDITION, ADDITION_TYPE, ADDITION_DATA = 0x41E4, 0x41E7, 0x41ED

HEAD_BYTES = 2**20
"""How much of a Matroska file's beginning is searched: the tracks come before the first cluster."""

MAX_BOX_BYTES = 2**16
"""The longest box whose content is read: a sample entry holds the codec's parameter sets."""

MOST_ASPECT = 64
"""The widest pixel, by its height, that is believed. The reciprocal is the narrowest."""

SAMPLE_ENTRY_BYTES = 86
"""A visual sample entry up to the boxes inside it."""

BT709, UNSPECIFIED, BT2020, BT2020_CONSTANT, ICTCP, IPT = 1, 2, 9, 10, 14, 15
"""ITU-T H.273: codes of matrices; those of BT.709's and BT.2020's primaries are the same."""
MATRICES = (0, BT709, UNSPECIFIED, 4, 5, 6, 7, BT2020)
"""Those that the library converts: 0 is RGB, 4 … 7 are FCC, BT.601 twice and SMPTE 240M."""
DOLBY_VISION = (b"dvcC", b"dvvC", b"dvwC")


@dataclass(frozen=True)
class Display:
    """How a track's decoded pictures are shown.

    `crop`: pixels that the container, not the codec, cuts off at the left, top, right and bottom. `aspect`: width of a
    pixel by its height. `colours`: matrix, primaries and transfer (ITU-T H.273) and range that the container states.
    `dolby_vision`: the profile, if it is Dolby Vision.
    """

    crop: tuple[int, int, int, int]
    aspect: Fraction
    colours: tuple[int, int, int, int]
    dolby_vision: int | None = None

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Pixels of the shown picture, not yet turned, for a decoded one of `width`×`height`. None is lost: the
        shorter side of a pixel is stretched."""
        left, top, right, bottom = self.crop
        wide, high = max(self.aspect, Fraction(1)), min(self.aspect, Fraction(1))
        return max(1, round((width - left - right) * wide)), max(1, round((height - top - bottom) / high))

    def tag(self, frame: VideoFrame) -> int:
        """Give `frame` the container's colours where the codec states none; HEVC's decoder then says limited range.

        Returns the stated matrix; where the library cannot convert it, the frame gets the nearest that it can.
        """
        matrix, primaries, transfer, range_ = self.colours
        if (frame.colorspace, frame.color_primaries, frame.color_trc) == (UNSPECIFIED,) * 3:
            frame.color_range = range_ or frame.color_range
        if frame.colorspace == UNSPECIFIED:
            frame.colorspace = matrix
        if frame.color_primaries == UNSPECIFIED:
            frame.color_primaries = primaries
        if frame.color_trc == UNSPECIFIED:
            frame.color_trc = transfer
        stated: int = frame.colorspace
        if stated not in MATRICES:
            frame.colorspace = BT2020 if stated in (BT2020_CONSTANT, ICTCP, IPT) else UNSPECIFIED
        return stated


def display_of(descriptor: int, container: InputContainer, stream: VideoStream) -> Display:
    """How `stream` of the file open as `descriptor` is shown. Call it before decoding, which replaces the colours."""
    context = stream.codec_context
    colours = context.colorspace, context.color_primaries, context.color_trc, context.color_range
    aspect = stream.sample_aspect_ratio or Fraction(1)
    crop, profile = (0, 0, 0, 0), None
    if container.format.name == MATROSKA:
        tracks, number = matroska_tracks(descriptor), container.streams.video.index(stream)
        crop, profile = tracks[number] if number < len(tracks) else (crop, profile)
    elif container.format.name == MP4 and (track := _mp4_track(descriptor, stream.id)) is not None:
        crop, profile = track.crop(context.width, context.height), _dolby_vision(track.boxes)
        aspect = track.aspect(context.width, context.height, crop) or aspect
    left, top, right, bottom = crop
    if left + right >= context.width or top + bottom >= context.height:
        crop = 0, 0, 0, 0
    if not 1 / MOST_ASPECT <= aspect <= MOST_ASPECT:
        aspect = Fraction(1)
    return Display(crop, aspect, colours, profile)


def matroska_tracks(descriptor: int) -> list[tuple[tuple[int, int, int, int], int | None]]:
    """For each video track, in order, the pixels cut off at (left, top, right, bottom) and its Dolby Vision profile."""
    head = os.pread(descriptor, HEAD_BYTES, 0)
    found = []
    for tracks in _find(head, SEGMENT, TRACKS):
        for track in (body for kind, body in _elements(tracks) if kind == TRACK):
            additions = [dict(_elements(body)) for kind, body in _elements(track) if kind == BLOCK_ADDITION]
            profile = _dolby_vision({one.get(ADDITION_TYPE, b""): one.get(ADDITION_DATA, b"") for one in additions})
            for video in (body for kind, body in _elements(track) if kind == VIDEO):
                values = {kind: int.from_bytes(body, "big") for kind, body in _elements(video) if kind in CROPS}
                left, top, right, bottom = (values.get(kind, 0) for kind in CROPS)
                found.append(((left, top, right, bottom), profile))
    return found


def _find(data: bytes, outer: int, inner: int) -> Iterator[bytes]:
    """The bodies of the elements `inner` in the elements `outer` of `data`."""
    for kind, body in _elements(data):
        if kind == outer:
            yield from (found for name, found in _elements(body) if name == inner)


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """ID and body of the elements in `data` (RFC 8794); the last may be cut off, or of unknown size."""
    at = 0
    while at < len(data) and data[at]:
        length = 9 - data[at].bit_length()
        kind = int.from_bytes(data[at : at + length], "big")
        at += length
        if kind == CLUSTER or at >= len(data) or not data[at]:
            return
        length = 9 - data[at].bit_length()
        size = int.from_bytes(data[at : at + length], "big") & ((1 << 7 * length) - 1)
        at += length
        if size == (1 << 7 * length) - 1:
            size = len(data) - at
        yield kind, data[at : at + size]
        at += size


@dataclass(frozen=True)
class _Mp4Track:
    """The display size of a track header (`tkhd`), and the boxes of its first sample entry."""

    width: Fraction
    height: Fraction
    boxes: dict[bytes, bytes]

    def crop(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Pixels cut off by the clean aperture (`clap`), whose centre is offset from that of the picture."""
        terms = _integers(self.boxes.get(b"clap", b""))
        if len(terms) != 8 or 0 in terms[1::2]:
            return 0, 0, 0, 0
        clean_width, clean_height, across, down = (Fraction(*terms[k : k + 2]) for k in (0, 2, 4, 6))
        left, top = (width - clean_width) / 2 + across, (height - clean_height) / 2 + down
        crop = round(left), round(top), round(width - left - clean_width), round(height - top - clean_height)
        return crop if min(clean_width, clean_height) > 0 <= min(crop) else (0, 0, 0, 0)

    def aspect(self, width: int, height: int, crop: tuple[int, int, int, int]) -> Fraction | None:
        """The shape of a pixel of a cropped track; None where the decoder's own answer is right.

        Without a `pasp` box that answer compares the display size with that of the whole picture.
        """
        uncropped = (self.width, self.height) == (width, height)
        if not any(crop) or b"pasp" in self.boxes or uncropped or not self.width or not self.height:
            return None
        left, top, right, bottom = crop
        return (self.width / (width - left - right)) / (self.height / (height - top - bottom))


def _dolby_vision(records: dict[bytes, bytes]) -> int | None:
    """The profile in a Dolby Vision configuration record, which both containers hold under the same names."""
    record = next((records[kind] for kind in DOLBY_VISION if kind in records), b"")
    return record[2] >> 1 if len(record) >= 5 else None


def _mp4_track(descriptor: int, number: int) -> _Mp4Track | None:
    """The video track whose track ID is `number`."""
    for track in mp4_boxes.find(descriptor, "moov", "trak"):
        header = next((_content(descriptor, box) for box in mp4_boxes.find(descriptor, "tkhd", within=track)), b"")
        long = header[:1] == b"\1"
        fields = _integers(header[4:])
        if len(fields) < 20 or fields[4 if long else 2] != number:
            continue
        tables = mp4_boxes.find(descriptor, "mdia", "minf", "stbl", "stsd", within=track)
        boxes: dict[bytes, bytes] = {}
        for _, begin, end in tables:
            entry = os.pread(descriptor, min(end - begin, MAX_BOX_BYTES), begin + 16)
            boxes = dict(mp4_boxes.inside(entry[SAMPLE_ENTRY_BYTES : int.from_bytes(entry[:4], "big")]))
        return _Mp4Track(Fraction(fields[-2], 2**16), Fraction(fields[-1], 2**16), boxes)
    return None


def _content(descriptor: int, box: tuple[str, int, int]) -> bytes:
    _, begin, end = box
    return os.pread(descriptor, min(end - begin - 8, MAX_BOX_BYTES), begin + 8)


def _integers(data: bytes) -> list[int]:
    """Signed 32-bit integers, big-endian."""
    return [int.from_bytes(data[at : at + 4], "big", signed=True) for at in range(0, len(data) - 3, 4)]
