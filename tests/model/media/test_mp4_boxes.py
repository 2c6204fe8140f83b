"""Boxes of an MP4 file, damaged ones too."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from model.media import mp4_boxes


def test_a_box_that_claims_more_than_a_file_can_hold_is_the_last(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"\0\0\0\x08free" + b"\0\0\0\x01moov" + b"\xff" * 8)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        assert [kind for kind, _, _ in mp4_boxes.walk(descriptor)] == ["free", "moov"]
        assert list(mp4_boxes.find(descriptor, "moov", "trak")) == []
    finally:
        os.close(descriptor)


def box(kind: bytes, content: bytes, length: int | None = None) -> bytes:
    return (8 + len(content) if length is None else length).to_bytes(4, "big") + kind + content


def test_a_child_that_claims_more_than_its_parent_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracks = 1000
    track = box(b"trak", box(b"mdia", box(b"minf", b"", length=2**31), length=2**31))
    path = tmp_path / "a.mp4"
    path.write_bytes(box(b"moov", tracks * track))
    reads = 0
    pread = os.pread

    def counted(descriptor: int, count: int, at: int) -> bytes:
        nonlocal reads
        reads += 1
        return pread(descriptor, count, at)

    monkeypatch.setattr(mp4_boxes.os, "pread", counted)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        found = list(mp4_boxes.find(descriptor, "moov", "trak", "mdia", "minf"))
    finally:
        os.close(descriptor)

    begins = [8 + len(track) * number for number in range(tracks)]
    assert found == [("minf", begin + 16, begin + len(track)) for begin in begins]
    assert reads <= 3 * tracks + 1


def test_one_search_reads_a_bounded_number_of_boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mp4_boxes, "MAX_BOXES", 10)
    path = tmp_path / "a.mp4"
    path.write_bytes(box(b"moov", 100 * box(b"trak", box(b"tkhd", b""))))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        assert len(list(mp4_boxes.find(descriptor, "moov", "trak", "tkhd"))) == 4
    finally:
        os.close(descriptor)
