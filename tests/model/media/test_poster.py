"""Posters: which frame is chosen, and that it is shown as a player shows it."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from model.media import frames
from model.media.poster import Poster, choose, draw_poster, write_poster
from model.media.source import MediaError
from tests.clips import CORNERS, Film, Track, make, read_number


def scene(seed: int = 3) -> Image.Image:
    """A picture with edges of all sizes."""
    noise = np.random.default_rng(seed).integers(0, 255, (24, 32, 3), np.uint8)
    return Image.fromarray(noise).resize((256, 192), Image.Resampling.NEAREST)


def corners(picture: Image.Image) -> list[list[tuple[int, ...]]]:
    """The colours of the quadrants, each channel on or off."""
    rgb = np.asarray(picture.convert("RGB"))
    height, width = rgb.shape[:2]
    points = [[rgb[height * y // 4, width * x // 4] for x in (1, 3)] for y in (1, 3)]
    return [[tuple(int(channel > 127) * 255 for channel in point) for point in row] for row in points]


def test_the_sharp_frame_is_chosen_among_blurred_ones(tmp_path: Path) -> None:
    blurred = [scene().filter(ImageFilter.GaussianBlur(radius)) for radius in (4, 3, 2, 0, 2, 3, 4)]

    poster = write_poster(tmp_path / "a.webp", np.stack([np.asarray(each) for each in blurred]), fps=10)

    assert poster == Poster(256, 192, 0.3)
    with Image.open(tmp_path / "a.webp") as picture:
        assert picture.format == "WEBP"
        off = np.asarray(picture.convert("RGB")).astype(float) - np.asarray(scene())
        assert np.abs(off).mean() < 12


def test_a_fade_and_a_flash_are_not_chosen() -> None:
    """Black at the beginning, the scene, and amid it one frame as bright and sharp as can be."""
    view = np.asarray(scene().convert("L").resize((64, 64)))
    flash = 255 - np.random.default_rng(5).integers(0, 2, (64, 64)).astype(np.uint8) * 120

    assert choose(np.stack([view * 0, view // 4, view, view, view, flash, view, view])) == 2
    assert choose(np.stack([flash, flash, view, flash])) == 0


def test_of_frames_that_are_all_alike_the_first_is_taken() -> None:
    assert choose(np.full((5, 64, 64), 80, np.uint8)) == 0


@pytest.mark.parametrize(
    ("size", "shown"), [((1280, 720), (640, 360)), ((32, 32), (32, 32)), ((1080, 1920), (640, 1138))]
)
def test_a_poster_is_made_smaller_and_never_larger(
    tmp_path: Path, size: tuple[int, int], shown: tuple[int, int]
) -> None:
    frames = np.asarray(scene().resize(size))[None]

    poster = write_poster(tmp_path / "a.webp", frames, fps=10)

    assert (poster.width, poster.height) == shown
    with Image.open(tmp_path / "a.webp") as picture:
        assert picture.size == shown


def test_the_poster_of_a_file_is_one_of_its_frames_at_its_time(tmp_path: Path) -> None:
    film = Film(frames=48, fps=Fraction(30), width=128, height=96, b_frames=2)
    clip = make(tmp_path / "clip.mp4", film, Track(seconds=1.6))

    poster = Poster.from_json(draw_poster(clip, tmp_path / "a.webp"))

    with Image.open(tmp_path / "a.webp") as picture:
        number = read_number(np.asarray(picture.convert("RGB")))
    assert number == round(poster.time * 30)
    assert 0 <= number < 48


@pytest.mark.parametrize(("gop", "most"), [(1, 64), (250, 8), (5000, 301)])
def test_few_frames_of_a_long_clip_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gop: int, most: int
) -> None:
    clip = make(tmp_path / "clip.mp4", Film(frames=2000, width=128, height=32, b_frames=2, gop=gop))
    decoded: list[float] = []
    applied = frames._Looks.applied

    def counted(looks: frames._Looks, shown: Iterator[frames.TimedFrame]) -> Iterator[frames.TimedFrame]:
        for each in applied(looks, shown):
            decoded.append(float(each.time))
            yield each

    monkeypatch.setattr(frames._Looks, "applied", counted)
    poster = Poster.from_json(draw_poster(clip, tmp_path / "a.webp"))

    assert most // 2 < len(decoded) <= most
    assert max(decoded) > (50 if gop < 2000 else 9)
    with Image.open(tmp_path / "a.webp") as picture:
        assert read_number(np.asarray(picture.convert("RGB"))) == round(poster.time * 30) % 256


@pytest.mark.parametrize(
    ("rotation", "upright"),
    [
        (None, CORNERS.tolist()),
        (90, np.rot90(CORNERS).tolist()),
        (180, np.rot90(CORNERS, 2).tolist()),
        (270, np.rot90(CORNERS, 3).tolist()),
    ],
)
def test_the_poster_of_a_file_stands_upright(tmp_path: Path, rotation: int | None, upright: list) -> None:
    film = Film(frames=8, width=128, height=64, corners=True, rotation=rotation)

    draw_poster(make(tmp_path / "clip.mp4", film), tmp_path / "a.webp")

    with Image.open(tmp_path / "a.webp") as picture:
        assert corners(picture) == [[tuple(colour) for colour in row] for row in upright]
        assert picture.size == ((64, 128) if rotation in (90, 270) else (128, 64))


@pytest.mark.parametrize(
    ("aspect", "rotation", "shown"),
    [
        (Fraction(2), None, (256, 96)),
        (Fraction(1, 2), None, (128, 192)),
        (Fraction(2), 90, (96, 256)),
        (Fraction(1), None, (128, 96)),
    ],
)
def test_pixels_that_are_not_square_are_stretched(
    tmp_path: Path, aspect: Fraction, rotation: int | None, shown: tuple[int, int]
) -> None:
    clip = make(tmp_path / "clip.mp4", Film(frames=4, width=128, height=96, aspect=aspect, rotation=rotation))

    poster = Poster.from_json(draw_poster(clip, tmp_path / "a.webp"))

    assert (poster.width, poster.height) == shown


def test_a_sound_has_no_poster(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no video track"):
        draw_poster(make(tmp_path / "sound.m4a", sound=Track(seconds=0.5)), tmp_path / "a.webp")
    assert not (tmp_path / "a.webp").exists()
