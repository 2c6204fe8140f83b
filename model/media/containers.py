"""Identifies the files that Duet opens by their first bytes. Imports neither torch nor the decoder.

A demuxer is chosen from this table only, never by file name and never by the library's own probing: playlists, image
sequences and other formats that refer to further files or addresses have no entry.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from model.media import frame_headers, ogg_links, transport_stream

SNIFF_BYTES = 16 * 1024
"""Bytes that are searched for a signature: more than two frames of any format that may begin with a part of one."""

MAX_TAGS = 64
"""ID3 tags that may precede the data."""

MAX_ZEROS = 16 * 1024 * 1024
"""Zero bytes that may precede the data."""

MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
MATROSKA = "matroska,webm"
DEMUXERS = (MP4, MATROSKA, "avi", "mpegts", "gif", "mp3", "aac", "flac", "ogg", "wav", "aiff")
"""Every demuxer that may run, by the library's names."""

STREAMED = ("mpegts", "mp3", "aac", "flac", "ogg")
"""Demuxers of formats that can be joined anywhere: the data may begin in the middle of a packet or behind padding."""

SKIP_TAGS = ("mp3", "aac", "flac")
"""Demuxers that skip ID3 tags themselves."""

READABLE = "MP4, MOV, WebM, MKV, AVI, MPEG-TS, GIF, MP3, AAC, FLAC, Ogg, WAV or AIFF"
"""The same list in a user's words."""

UPLOAD = "fd:"
"""How the decoder is told to open a file: by the number of a descriptor that is open already. It never gets a name."""

MAX_CHANNELS = 64
MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 100, 768_000
"""What sound may have: outside lies no real file, and what does would fill the memory or come to nothing."""


def open_options(descriptor: int) -> dict[str, str]:
    """Options to open what `descriptor` stands for: descriptors and the demuxers above only, also for what a file
    refers to. No protocol is left that takes a path or an address."""
    return {"fd": str(descriptor), "protocol_whitelist": "fd", "format_whitelist": ",".join(DEMUXERS)}


_STILL_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"mif2")
_STILLS = (b"\x89PNG", b"\xff\xd8\xff\xe0", b"\xff\xd8\xff\xe1")
_EBML, _CLUSTER = b"\x1a\x45\xdf\xa3", b"\x1f\x43\xb6\x75"
_UNOPENED = {
    b"FLV\x01": "Flash video (FLV)",
    b"\0\0\1\xba": "an MPEG program stream (MPG, VOB)",
    bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"): "Windows Media (WMV, WMA, ASF)",
    b".RMF": "RealMedia",
    bytes.fromhex("060e2b34020501010d010201"): "MXF",
    b"caff": "a Core Audio file (CAF)",
    b".snd": "an AU sound",
    b"#!AMR": "an AMR sound",
    bytes.fromhex("726966662e91cf11a5d628db04c10000"): "Wave64 (W64)",
    b"\x0b\x77": "bare AC-3",
    b"wvpk": "WavPack",
    b"MAC ": "Monkey's Audio",
    b"DSD ": "DSD sound",
    b"MThd": "MIDI",
    b"DKIF": "IVF",
    b"\0\0\0\1": "bare H.264 or H.265, without a container",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
}
"""Formats of sound and film that are not opened, by their first bytes."""

_MOV_ATOMS = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"styp", b"sidx", b"moof")


@dataclass(frozen=True)
class Signature:
    """The demuxer of a file, and the number of bytes at its beginning that the demuxer must not see."""

    demuxer: str
    skip: int = 0


def identify(descriptor: int) -> Signature | None:
    """Identify an open file, or return None if Duet does not open its format (text, an image …).

    Data may follow ID3v2 tags of any size, and zeros. Formats that can be joined anywhere may also follow other bytes,
    or begin inside a frame.
    """
    tags = _after_tags(descriptor)
    head = os.pread(descriptor, SNIFF_BYTES, tags)
    demuxer = sniff(head)
    if demuxer == MP4:  # its index counts bytes from the beginning of the file
        return None if tags else Signature(demuxer)
    if demuxer in SKIP_TAGS:
        return Signature(demuxer)
    if demuxer is not None:
        return Signature(demuxer, tags)
    start = _after_zeros(descriptor, tags)
    head = os.pread(descriptor, SNIFF_BYTES, start)
    demuxer = sniff(head) if start > tags else None
    if demuxer is not None:
        return None if demuxer == MP4 else Signature(demuxer, start)
    if _CLUSTER in head or head[:4] in _STILLS:
        return None
    inside = _find_inside(head)
    return None if inside is None else Signature(inside[0], start + inside[1])


def why_unknown(descriptor: int) -> str:
    """Why `identify` does not know an open file, in words for its owner."""
    head = os.pread(descriptor, SNIFF_BYTES, 0)
    if _CLUSTER in head:
        return "the file is a later part of a WebM or MKV recording, without the header that its first part has"
    for signature, name in _UNOPENED.items():
        if head.startswith(signature):
            return f"the file is {name}, which is not supported"
    return "the file is not a video or sound file that can be opened"


def _find_inside(head: bytes) -> tuple[str, int] | None:
    """The demuxer of a format that can be joined anywhere, and where in `head` its data begins."""
    packets = transport_stream.find(head)
    if packets is not None:
        return "mpegts", packets[0]
    page = ogg_links.find_first(head)
    return ("ogg", page) if page is not None else frame_headers.find(head)


def sniff(head: bytes) -> str | None:
    """The demuxer for data that begins with `head`, or None.

    Signatures: ISO/IEC 14496-12 (MP4), RFC 8794 (EBML), RFC 9639 (FLAC), RFC 3533 (Ogg), ISO/IEC 13818-1 and -7
    (transport stream, ADTS), ISO/IEC 11172-3 (MP3), ITU-R BS.2088 (BW64), and the RIFF, IFF and GIF89a documents.
    """
    if head[4:8] == b"ftyp":
        return None if head[8:12] in _STILL_BRANDS else MP4
    if head[4:8] in _MOV_ATOMS:
        return MP4
    if head[:4] == _EBML:
        return MATROSKA
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM"):
        return {b"AVI ": "avi", b"WAVE": "wav", b"AIFF": "aiff", b"AIFC": "aiff"}.get(head[8:12])
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    if head[:4] == b"fLaC":
        return "flac"
    if head[:4] == b"OggS":
        return "ogg"
    packets = transport_stream.find(head)
    if packets is not None and packets[0] < packets[1]:  # it may begin inside a packet
        return "mpegts"
    return frame_headers.leading(head)


def _after_tags(descriptor: int) -> int:
    """Where the last of the ID3v2 tags at the beginning ends. A tag states its length in four bytes of seven bits."""
    offset = 0
    for _ in range(MAX_TAGS):
        header = os.pread(descriptor, 10, offset)
        if len(header) < 10 or header[:3] != b"ID3" or max(header[6:10]) > 127:
            break
        size = sum(byte << shift for byte, shift in zip(header[6:10], (21, 14, 7, 0), strict=True))
        offset += 10 + size + (10 if header[5] & 0x10 else 0)
    return offset


def _after_zeros(descriptor: int, offset: int) -> int:
    end = offset + MAX_ZEROS
    while offset < end and (piece := os.pread(descriptor, 2**16, offset)):
        rest = piece.lstrip(b"\0")
        offset += len(piece) - len(rest)
        if rest:
            break
    return offset
