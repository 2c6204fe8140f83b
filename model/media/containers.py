"""Which files Duet opens, told by their first bytes. No torch and no decoder here: the API reads this too.

A demuxer is only ever chosen from this table, never guessed from a name or left to the library's own probing over all
that it knows: playlists, image sequences and whatever else names further files or addresses has no entry.
"""

from __future__ import annotations

SNIFF_BYTES = 4096
"""How much of a file's beginning `sniff` wants to see."""

MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
MATROSKA = "matroska,webm"
DEMUXERS = (MP4, MATROSKA, "avi", "mpegts", "gif", "mp3", "aac", "flac", "ogg", "wav", "aiff")
"""Every demuxer that may run, by the library's names."""

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
_MOV_ATOMS = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")


def sniff(head: bytes) -> str | None:
    """The demuxer for a file that begins with `head`, or None if it is nothing that Duet opens (text, an image …).

    Signatures: ISO/IEC 14496-12 (MP4), RFC 8794 (EBML), RFC 9639 (FLAC), RFC 3533 (Ogg), ISO/IEC 13818-1 and -7
    (transport stream, ADTS), ISO/IEC 11172-3 (MP3), and the RIFF, IFF and GIF89a documents.
    """
    if head[:3] == b"ID3":
        return sniff(_after_id3(head)) or "mp3"  # a tag longer than `head` (cover art) is an MP3's in practice
    if head[4:8] == b"ftyp":
        return None if head[8:12] in _STILL_BRANDS else MP4
    if head[4:8] in _MOV_ATOMS:
        return MP4
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return MATROSKA
    if head[:4] in (b"RIFF", b"RF64") or head[:4] == b"FORM":
        return {b"AVI ": "avi", b"WAVE": "wav", b"AIFF": "aiff", b"AIFC": "aiff"}.get(head[8:12])
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    if head[:4] == b"fLaC":
        return "flac"
    if head[:4] == b"OggS":
        return "ogg"
    if _is_transport_stream(head):
        return "mpegts"
    return _mpeg_audio(head)


def _after_id3(head: bytes) -> bytes:
    """What follows an ID3v2 tag: its length stands in four bytes of seven bits each."""
    if len(head) < 10:
        return b""
    size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    return head[10 + size :]


def _is_transport_stream(head: bytes) -> bool:
    """Three sync bytes in a row, 188 bytes apart, or 192 with the time stamps of Blu-ray."""
    return any(
        len(head) > first + 2 * step and all(head[first + k * step] == 0x47 for k in range(3))
        for first, step in ((0, 188), (4, 192))
    )


def _mpeg_audio(head: bytes) -> str | None:
    """ADTS has layer 0 in its frame header; MP3 a layer, a bit rate and a sample rate that are not reserved."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    if head[1] & 0xF6 == 0xF0:
        return "aac"
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    bit_rate, sample_rate = head[2] >> 4, head[2] >> 2 & 3
    return "mp3" if version != 1 and layer != 0 and bit_rate not in (0, 15) and sample_rate != 3 else None
