"""Boxes of an MP4 file, damaged ones too."""

from __future__ import annotations

import os
from pathlib import Path

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
