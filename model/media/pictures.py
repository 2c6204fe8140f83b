"""Contact sheet of a clip: its frames with their times above the spectrogram of its sound."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from model.media.frames import TimedFrame, video_frames
from model.media.lengths import seconds
from model.media.opening import MediaError
from model.media.poster import displayed
from model.media.source import media_end, open_media, read_sound
from model.media.spectrogram import INK, PAGE, clock, font, spectrogram
from model.media.tracks import video_track

FRAMES, COLUMNS = 16, 8
MARGIN, GAP, LABEL, EM = 28, 8, 42, 20
"""Pixels: page margin, gap between frames, height of the label line, font size."""

SOUND_HEIGHT = 440
"""Pixels of the spectrogram."""

TALLEST = 2.0
"""Highest ratio of a cell's height to its width; taller frames are scaled down."""

PIXELATED = 96
"""Frames up to this width in pixels, those of a small network, are enlarged without interpolation."""

MAX_SECONDS = 600
"""Seconds of sound that are drawn at most."""

SOUGHT = 60
"""Clips longer than this, in seconds, are seeked in: decoding all of them takes too long."""


@dataclass(frozen=True)
class _Contents:
    """What a file has: seconds of its video track, and whether frames can be sought there."""

    sound: bool
    video_seconds: Fraction | None
    sought: bool
    total_seconds: Fraction


def contact_sheet(path: str | Path, width: int = 1600) -> Image.Image:
    """16 frames at equal distances over the clip's length, with their times, above the spectrogram of its sound.

    What the clip does not have is left out: a sound alone is its spectrogram. Raises MediaError if the file cannot be
    read or has neither.
    """
    contents = _contents(path)
    frames_height = 0
    cells: list[tuple[Image.Image, Fraction]] = []
    cell = (width - 2 * MARGIN - (COLUMNS - 1) * GAP) // COLUMNS
    if contents.video_seconds is not None:
        limits = cell, round(TALLEST * cell)
        chosen = _sample(path, contents.video_seconds, contents.sought)
        cells = [(_fitted(displayed(shown, *limits), *limits), time) for shown, time in chosen]
        frames_height = MARGIN + FRAMES // COLUMNS * (max(picture.height for picture, _ in cells) + LABEL)
    sheet = Image.new("RGB", (width, frames_height + (SOUND_HEIGHT if contents.sound else MARGIN // 2)), PAGE)
    if cells:
        _paste(sheet, cells, cell)
    if contents.sound:
        sound = read_sound(path, Fraction(0), min(contents.total_seconds, Fraction(MAX_SECONDS)))
        audio = torch.from_numpy(sound.to_float())
        picture, _ = spectrogram(audio, sound.sample_rate, width, SOUND_HEIGHT, EM)
        sheet.paste(picture.convert("RGB"), (0, frames_height))
    return sheet


def _contents(path: str | Path) -> _Contents:
    with open_media(path) as container:
        sound, length, sought = bool(container.streams.audio), None, False
        try:
            stream = video_track(container)
        except MediaError:
            if not sound:
                raise
        else:
            own = seconds(stream.duration, stream.time_base)
            sought = own is not None and own > SOUGHT
            length = Fraction(0)
    if length is not None:
        length = media_end(path, "video")
    total = max(length or Fraction(0), media_end(path, "audio") if sound else Fraction(0))
    return _Contents(sound, length, sought, total)


def _sample(path: str | Path, duration: Fraction, sought: bool) -> list[tuple[TimedFrame, Fraction]]:
    """For each of 16 equal parts of the clip, the frame shown in its middle, and when that is."""
    due = [duration * (2 * k + 1) / (2 * FRAMES) for k in range(FRAMES)]
    if sought:
        return [(next(video_frames(path, time)), time) for time in due]
    chosen: list[tuple[TimedFrame, Fraction]] = []
    last: TimedFrame | None = None
    for last in video_frames(path, 0):
        chosen += [(last, time) for time in due[len(chosen) :] if time < last.time + last.duration]
        if len(chosen) == FRAMES:
            break
    if last is None:
        raise MediaError("the file has no frames")
    return chosen + [(last, time) for time in due[len(chosen) :]]


def _fitted(picture: Image.Image, width: int, height: int) -> Image.Image:
    """Enlarged to the cell where it is smaller."""
    scale = min(width / picture.width, height / picture.height)
    how = Image.Resampling.NEAREST if picture.width <= PIXELATED else Image.Resampling.BICUBIC
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture if scale <= 1 else picture.resize(size, how)


def _paste(sheet: Image.Image, cells: list[tuple[Image.Image, Fraction]], cell: int) -> None:
    draw, tall = ImageDraw.Draw(sheet), max(picture.height for picture, _ in cells)
    step = float(cells[1][1] - cells[0][1])
    for index, (picture, time) in enumerate(cells):
        row, column = divmod(index, COLUMNS)
        left, top = MARGIN + column * (cell + GAP), MARGIN + row * (tall + LABEL)
        sheet.paste(picture, (left + (cell - picture.width) // 2, top + tall - picture.height))
        shown = clock(float(time), step) if step >= 30 else f"{float(time):.2f} s"
        draw.text((left + cell // 2, top + tall + 6), shown, INK, font(EM - 3), anchor="ma")
