"""The part of a picture that a Matroska file shows (RFC 9559, PixelCrop…); the decoder's binding does not tell it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

SEGMENT, TRACKS, TRACK, VIDEO, CLUSTER = 0x18538067, 0x1654AE6B, 0xAE, 0xE0, 0x1F43B675
CROPS = (0x54CC, 0x54BB, 0x54DD, 0x54AA)
"""Element IDs of the pixels cut off at the left, top, right and bottom."""

HEAD_BYTES = 2**20
"""How much of a file's beginning is searched: the tracks come before the first cluster."""


def matroska_crops(path: str | Path) -> list[tuple[int, int, int, int]]:
    """For each video track, in order, the pixels cut off at (left, top, right, bottom)."""
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
    crops = []
    for tracks in _find(head, SEGMENT, TRACKS):
        for video in _find(tracks, TRACK, VIDEO):
            values = {kind: int.from_bytes(body, "big") for kind, body in _elements(video) if kind in CROPS}
            left, top, right, bottom = (values.get(kind, 0) for kind in CROPS)
            crops.append((left, top, right, bottom))
    return crops


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
