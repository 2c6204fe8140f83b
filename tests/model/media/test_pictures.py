"""Contact sheets: what is drawn where, for clips of all kinds."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.media.pictures import GAP, LABEL, MARGIN, SOUND_HEIGHT, contact_sheet
from model.media.source import MediaError
from model.media.spectrogram import PAGE
from tests.clips import Film, Track, make, read_number


def numbers(sheet: Image.Image, height: int) -> list[int]:
    """The numbers of the frames on a sheet 1600 pixels wide, whose cells are `height` pixels high."""
    cell = (1600 - 2 * MARGIN - 7 * GAP) // 8
    seen = []
    for index in range(16):
        row, column = divmod(index, 8)
        left, top = MARGIN + column * (cell + GAP), MARGIN + row * (height + LABEL)
        seen.append(read_number(np.asarray(sheet.crop((left, top + 2, left + cell, top + height - 2)))))
    return seen


def test_the_sheet_shows_16_frames_over_the_length_in_order(tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mp4", Film(frames=64, fps=Fraction(20), width=64, height=64), Track(seconds=3.2))

    sheet = contact_sheet(path, width=1600)

    assert sheet.width == 1600
    cell = (1600 - 2 * MARGIN - 7 * GAP) // 8
    assert numbers(sheet, cell) == [4 * k + 2 for k in range(16)]
    times = np.asarray(sheet.crop((0, MARGIN + cell, 1600, MARGIN + cell + LABEL)).convert("L"))
    for column in range(8):
        below = times[:, MARGIN + column * (cell + GAP) : MARGIN + column * (cell + GAP) + cell]
        assert below.max() > 200, "its time is written below"


def test_frames_of_a_long_clip_are_sought_and_are_the_same(tmp_path: Path) -> None:
    """100 s with a keyframe every 12 s: 16 frames need not take 800 to be decoded."""
    film = Film(frames=800, fps=Fraction(8), width=64, height=64, gop=96)

    sheet = contact_sheet(make(tmp_path / "clip.mp4", film), width=1600)

    due = [800 * (2 * k + 1) // 32 for k in range(16)]
    assert numbers(sheet, (1600 - 2 * MARGIN - 7 * GAP) // 8) == [number % 256 for number in due]


def test_the_sheet_has_a_spectrogram_only_if_there_is_sound(tmp_path: Path) -> None:
    silent = contact_sheet(make(tmp_path / "silent.mp4", Film(frames=32)))
    sounding = contact_sheet(make(tmp_path / "sounding.mp4", Film(frames=32), Track(seconds=1)))

    begins = sounding.height - SOUND_HEIGHT
    assert begins <= silent.height < sounding.height
    spectrum = np.asarray(sounding.convert("L"))[begins:, 100:1450]
    assert spectrum.max() > 200


def test_the_sheet_of_a_sound_is_its_spectrogram(tmp_path: Path) -> None:
    sheet = contact_sheet(make(tmp_path / "sound.m4a", sound=Track(seconds=0.5)))

    assert sheet.size == (1600, SOUND_HEIGHT)
    assert np.asarray(sheet.convert("L")).max() > 200


def test_upright_clips_have_higher_cells_than_wide_ones(tmp_path: Path) -> None:
    heights = [
        contact_sheet(make(tmp_path / f"{width}.mp4", Film(frames=16, width=width, height=height))).height
        for width, height in ((128, 72), (72, 128), (32, 512))
    ]

    assert heights[0] < heights[1] < heights[2] < 1000


def test_a_sheet_has_its_margins(tmp_path: Path) -> None:
    sheet = np.asarray(contact_sheet(make(tmp_path / "clip.mp4", Film(frames=32), Track(seconds=1))))

    for edge in (sheet[:MARGIN], sheet[:, :5], sheet[:, -5:], sheet[-4:]):
        assert (edge == PAGE).all()


def test_a_file_that_is_no_clip_has_no_sheet(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"not a clip at all")

    with pytest.raises(MediaError, match="cannot be opened"):
        contact_sheet(path)


def test_real_clips_have_sheets(clips: Path) -> None:
    for path in sorted(clips.iterdir()):
        if path.suffix != ".md":
            assert contact_sheet(path).width == 1600, path.name
