"""Clips as still pictures: a log-mel spectrogram, and a contact sheet of frames above it.

`python -m model.pictures clip.mp4 sheet.png` makes the latter.
"""

from __future__ import annotations

import sys
from fractions import Fraction
from math import log2, log10
from pathlib import Path

import av
import numpy as np
import torch
import torchaudio
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from model.media.decode import upright_rgb
from model.media.source import MediaError, TimedFrame, open_media, read_sound, video_frames

FRAMES, COLUMNS = 16, 8
DPI = 100
MELS = 96
MAX_STEPS = 1200
RANGE_DB = 70.0
"""From the loudest point, in white, down to black."""

QUIET_DB = -50.0
"""What is quieter than this below full scale stays dark: the noise of silence is not stretched into a picture."""

MAX_SECONDS = 600
THUMBNAIL = 320
"""Longest side in pixels to which frames are shrunk."""

BACKGROUND, INK, FAINT = "#14161b", "#e8e6e1", "#8b8f98"
TICKS_HZ = (100, 250, 500, 1000, 2000, 4000, 8000, 16000)


def spectrogram(audio: Tensor, sample_rate: int, width: int = 1200, height: int = 400) -> Image.Image:
    """Log-mel spectrogram of `audio` (channels, samples) as a picture; axes in seconds and hertz."""
    figure = _figure(width, height)
    margin_x, margin_y = 90 / width, 56 / height
    axes = figure.add_axes((margin_x, margin_y, 1 - margin_x - 24 / width, 1 - margin_y - 18 / height))
    _draw_spectrogram(axes, audio, sample_rate)
    return _picture(figure)


def contact_sheet(path: str | Path, width: int = 1600) -> Image.Image:
    """16 frames at equal distances over the clip's length, with their times, above the spectrogram of its sound.

    A clip without sound has no spectrogram. Raises MediaError if there is no video track, or
    its length is not known.
    """
    with open_media(path) as container:
        has_sound = bool(container.streams.audio)
        if not container.duration:
            raise MediaError("the file does not say how long it is")
        duration = Fraction(container.duration, av.time_base)
    chosen = _sample(path, duration)
    pictures = [_thumbnail(frame) for frame, _ in chosen]
    rows, gap, margin, label = -(-FRAMES // COLUMNS), 6, 24, 24
    cell = (width - 2 * margin - (COLUMNS - 1) * gap) / COLUMNS
    tall = cell * max(picture.height / picture.width for picture in pictures)
    top = 2 * margin + rows * (tall + label)
    height = round(top + (360 if has_sound else 0))
    figure = _figure(width, height)
    for index, (picture, (_, time)) in enumerate(zip(pictures, chosen, strict=True)):
        row, column = divmod(index, COLUMNS)
        left, low = margin + column * (cell + gap), height - margin - (row + 1) * (tall + label) + label
        axes = figure.add_axes((left / width, low / height, cell / width, tall / height))
        axes.imshow(np.asarray(picture), interpolation="bicubic" if picture.width >= cell else "nearest")
        axes.set_axis_off()
        figure.text(left / width, (low - 17) / height, f"{float(time):.2f} s", color=FAINT, size=10)
    if has_sound:
        sound = read_sound(path, Fraction(0), min(duration, Fraction(MAX_SECONDS)))
        axes = figure.add_axes((96 / width, 58 / height, 1 - (96 + margin) / width, (360 - 58 - 6) / height))
        _draw_spectrogram(axes, torch.from_numpy(sound.to_float()), sound.sample_rate)
    return _picture(figure)


def _sample(path: str | Path, duration: Fraction) -> list[tuple[TimedFrame, Fraction]]:
    """For each of 16 equal parts of the clip, the frame shown in its middle, and when that is."""
    due = [duration * (2 * k + 1) / (2 * FRAMES) for k in range(FRAMES)]
    chosen: list[tuple[TimedFrame, Fraction]] = []
    last: TimedFrame | None = None
    for last in video_frames(path, 0):
        chosen += [(last, time) for time in due[len(chosen) :] if time < last.time + last.duration]
        if len(chosen) == FRAMES:
            break
    if last is None:
        raise MediaError("the file has no frames")
    return chosen + [(last, time) for time in due[len(chosen) :]]


def _thumbnail(shown: TimedFrame) -> Image.Image:
    picture = Image.fromarray(np.ascontiguousarray(upright_rgb(shown)))
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return picture


def log_mel(audio: Tensor, sample_rate: int) -> Tensor:
    """`audio` (channels, samples) → (mel bands, steps), decibels relative to a sine of full scale.

    The mean of the channels through a Hann window of about 64 ms; bands from 0 Hz to half the sample rate, equally wide
    in mel (O'Shaughnessy: 2595 log10(1 + f/700)). Every step is a centred window, the first at the first sample.
    """
    mono = audio.float().mean(dim=0)
    size = 2 ** max(5, round(log2(0.064 * sample_rate)))
    hop = max(1, size // 8, len(mono) // MAX_STEPS)
    window = torch.hann_window(size)
    spectrum = torch.stft(mono, size, hop, window=window, pad_mode="constant", return_complex=True)
    amplitude = 2 * spectrum.abs() / window.sum()
    bank = torchaudio.functional.melscale_fbanks(size // 2 + 1, 0.0, sample_rate / 2, MELS, sample_rate)
    return 10 * torch.log10((bank.T @ amplitude**2).clamp_min(1e-12))


def _draw_spectrogram(axes: Axes, audio: Tensor, sample_rate: int) -> None:
    decibels = log_mel(audio, sample_rate)
    loudest = max(float(decibels.max()), QUIET_DB)
    length, top = audio.shape[1] / sample_rate, _mel(sample_rate / 2)
    axes.imshow(
        decibels.numpy(),
        origin="lower",
        aspect="auto",
        extent=(0, length, 0, top),
        cmap="magma",
        vmin=loudest - RANGE_DB,
        vmax=loudest,
        interpolation="bilinear",
    )
    ticks = [hertz for hertz in TICKS_HZ if hertz <= sample_rate / 2]
    axes.set_yticks([_mel(hertz) for hertz in ticks], [f"{hertz:,}".replace(",", " ") for hertz in ticks])
    axes.set_xlabel("seconds", color=INK, size=12)
    axes.set_ylabel("Hz", color=INK, size=12)
    axes.tick_params(colors=FAINT, labelsize=10, length=3)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _mel(hertz: float) -> float:
    return 2595 * log10(1 + hertz / 700)


def _figure(width: int, height: int) -> Figure:
    """A figure of so many pixels. Not through pyplot, which keeps global state that threads would share."""
    return Figure((width / DPI, height / DPI), dpi=DPI, facecolor=BACKGROUND)


def _picture(figure: Figure) -> Image.Image:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def main() -> None:
    """Write the contact sheet of the clip named first to the picture named second."""
    clip, picture = sys.argv[1:]
    contact_sheet(clip).save(picture)


if __name__ == "__main__":
    main()
