"""The name of a track's codec, for tracks without a decoder."""

from __future__ import annotations

import os
import re

import av.logging
from av.container import InputContainer

from model.media import mp4_boxes
from model.media.containers import MATROSKA

ENCRYPTED_TAGS = ("encv", "enca", "drms", "drmi", "p608", "aavd", "adrm")
"""Sample entries of encrypted tracks (ISO/IEC 14496-12, 8.12; QuickTime; Audible)."""

HEAD_BYTES = 4 * 1024 * 1024
_CODEC_ID = re.compile(rb"\x86([\x81-\xbf])([VASB]_[\x20-\x7e]+)")
"""Matroska's CodecID element with its length (RFC 9559)."""

_ENTRY = re.compile(rb"stsd.{12}(%s)" % "|".join(ENCRYPTED_TAGS).encode(), re.DOTALL)
"""The sample entry of an encrypted track."""

_STREAM = re.compile(r"Stream #0:(\d+)\S*: \w+: (\w+)(?:[^,\n]*?\(([^()]{4,24}) / 0x([0-9A-F]{4,8})\))?")
"""A line of the library's summary: number, codec, and the container's own code as text and number."""


def find(container: InputContainer, descriptor: int) -> dict[int, str]:
    """The codec of each track, by number: the library's name, else the container's own code, else `unknown`."""
    return {number: name or tag for number, (name, tag) in _summary(container, descriptor).items()}


def tags(container: InputContainer) -> dict[int, str]:
    """The container's own code of each track's codec, by number."""
    return {number: tag for number, (_, tag) in _summary(container, None).items()}


def _summary(container: InputContainer, descriptor: int | None) -> dict[int, tuple[str, str]]:
    before = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)  # the summary is a log message
    try:
        summary: str = container.dumps_format()  # type: ignore[attr-defined]
    finally:
        av.logging.set_level(before)
    own = _codec_ids(descriptor) if container.format.name == MATROSKA and descriptor is not None else []
    found = {}
    for number, name, text, code in _STREAM.findall(summary):
        index = int(number)
        tag = own[index] if index < len(own) else _readable(text, int(code or "0", 16))
        found[index] = ("" if name in ("none", "unknown") else name, tag)
    return found


def has_encrypted_entry(descriptor: int) -> bool:
    """True if the index of an MP4 describes an encrypted track."""
    begin = next((begin for kind, begin, _ in mp4_boxes.walk(descriptor) if kind == "moov"), 0)
    return _ENTRY.search(os.pread(descriptor, HEAD_BYTES, begin)) is not None


def _codec_ids(descriptor: int) -> list[str]:
    found = _CODEC_ID.findall(os.pread(descriptor, HEAD_BYTES, 0))
    return [name[: length[0] & 0x7F].decode("latin-1") for length, name in found]


def _readable(text: str, code: int) -> str:
    if not code:
        return "unknown"
    return text if len(text) == 4 and text.isprintable() else f"0x{code:04X}"
