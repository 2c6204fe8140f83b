"""The names that files give to their codecs, for tracks whose codec the library does not know."""

from __future__ import annotations

import os
import re

from model.media import mp4_boxes
from model.media.containers import MATROSKA, MP4

MAX_BYTES = 4 * 1024 * 1024
_SAMPLE_ENTRY = re.compile(rb"stsd.{12}(.{4})", re.DOTALL)
"""The four-letter code of a track's first sample entry (ISO/IEC 14496-12, 8.5.2)."""
_CODEC_ID = re.compile(rb"\x86([\x81-\xbf])([VASB]_[\x20-\x7e]+)")
"""Matroska's CodecID element with its length (RFC 9559)."""


def find(descriptor: int, container: str, index: int) -> str | None:
    """The name of the codec of track `index`; None where it cannot be told."""
    if container == MP4:
        begin = next((begin for kind, begin, _ in mp4_boxes.walk(descriptor) if kind == "moov"), 0)
        names = _SAMPLE_ENTRY.findall(os.pread(descriptor, MAX_BYTES, begin))
    elif container == MATROSKA:
        found = _CODEC_ID.findall(os.pread(descriptor, MAX_BYTES, 0))
        names = [name[: length[0] & 0x7F] for length, name in found]
    else:
        return None
    return names[index].decode("latin-1").strip() if index < len(names) else None
