"""Draws the log-mel spectrogram of a sound, with axes in seconds and hertz and a scale in decibels.

The picture has a palette of 256 colours: the ramp of `model.media.palette`, then greys from the page to the ink for
the text around it. The letters are large, because on a phone the picture is shown at a third of its size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from math import ceil, floor, log2, log10
from pathlib import Path

import numpy as np
import torch
import torchaudio
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from model.media.json_numbers import JsonNumbers
from model.media.palette import ramp
from model.media.source import read_sound

WIDTH, HEIGHT, EM = 1200, 540, 30
"""Pixels of the picture, and of its letters."""

PIECE = 2**18
"""Samples that are transformed at a time, if they are more than a step has."""

MELS = 96
MAX_STEPS = 1200
RANGE_DB = 70.0
"""From the loudest point, in white, down to black."""

QUIET_DB = -50.0
"""What is quieter than this below full scale stays dark: the noise of silence is not stretched into a picture."""

PAGE, INK = (23, 25, 30), (236, 234, 228)
"""Behind the plot, and written on it: a dark card, at home on dark pages and on light ones."""

FAINT = 168
"""Of 255: how much ink the numbers get; names of axes get all of it."""

PIXELS = ("left", "right", "top", "bottom", "width", "height")
"""The fields of a plot that count pixels."""

_COLOURS = 224
"""Of the 256 of the picture; the others are greys."""

_TICKS_HZ = (8000, 2000, 500, 4000, 1000, 16000, 32000, 250, 125, 62, 64000, 128000, 256000, 31, 16, 8)
"""In order of priority."""

_STEPS_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 7200)


@dataclass(frozen=True)
class Plot(JsonNumbers):
    """Position and scale of the plot in a picture of `width`×`height` pixels.

    Time runs from 0 at `left` to `seconds` at `right`, frequency evenly in mel from 0 Hz at `bottom` to `hertz` at
    `top`; pixels count from the upper left, and `right` and `bottom` are the first ones outside. Colours run from
    `quiet_db` to `loud_db`, decibels relative to a sine of full scale.
    """

    left: int
    right: int
    top: int
    bottom: int
    width: int
    height: int
    seconds: float
    hertz: float
    quiet_db: float
    loud_db: float


def write_spectrogram(path: str | Path, audio: Tensor, sample_rate: int) -> Plot:
    """Write the spectrogram of `audio` (channels, samples) as PNG. Its text chunk `plot` is the answer as JSON."""
    return _write(path, _Mono.of(audio), sample_rate)


def _write(path: str | Path, mono: _Mono, sample_rate: int) -> Plot:
    picture, plot = _drawn(mono, sample_rate, WIDTH, HEIGHT, EM)
    text = PngInfo()
    text.add_text("plot", plot.to_json())
    picture.save(path, "PNG", pnginfo=text, compress_level=4)
    return plot


def draw_sound(sound: str | Path, path: str | Path, duration: float) -> str:
    """Write the spectrogram of the first `duration` seconds of a file, as `write_spectrogram` does.

    Returns the Plot as JSON. Raises MediaError if the file has no sound.
    """
    heard = read_sound(sound, Fraction(0), Fraction(duration), Path(path).parent)
    mono = _Mono(len(heard.samples), lambda first, last: heard.to_float(first, last).mean(axis=0))
    return _write(path, mono, heard.sample_rate).to_json()


def spectrogram(
    audio: Tensor, sample_rate: int, width: int = WIDTH, height: int = HEIGHT, em: int = EM
) -> tuple[Image.Image, Plot]:
    """Log-mel spectrogram of `audio` (channels, samples) as a picture of letters `em` pixels high."""
    return _drawn(_Mono.of(audio), sample_rate, width, height, em)


def _drawn(mono: _Mono, sample_rate: int, width: int, height: int, em: int) -> tuple[Image.Image, Plot]:
    decibels = _levels(mono, sample_rate)
    loudest = round(max(float(decibels.max()), QUIET_DB), 1)
    plot = Plot(
        left=round(4.1 * em),
        right=width - round(5 * em),
        top=round(1.9 * em),
        bottom=height - round(3.3 * em),
        width=width,
        height=height,
        seconds=mono.length / sample_rate,
        hertz=sample_rate / 2,
        quiet_db=loudest - RANGE_DB,
        loud_db=loudest,
    )
    indices = _grey(_axes(plot, em))
    steps_each = mono.length / _hop(mono.length, sample_rate)
    heat = _stretched(decibels.numpy(), plot.right - plot.left, plot.bottom - plot.top, steps_each)
    indices[plot.top : plot.bottom, plot.left : plot.right] = _colour(heat, plot)
    bar = _bar(plot, em)
    scale = np.linspace(plot.loud_db, plot.quiet_db, plot.bottom - plot.top)[:, None]
    indices[plot.top : plot.bottom, bar[0] : bar[1]] = _colour(scale, plot)
    picture = Image.fromarray(indices, "L")
    picture.putpalette(_palette().tobytes())
    return picture, plot


def log_mel(audio: Tensor, sample_rate: int) -> Tensor:
    """`audio` (channels, samples) → (mel bands, steps), decibels relative to a sine of full scale.

    The mean of the channels through a Hann window of about 64 ms; bands from 0 Hz to half the sample rate, equally wide
    in mel (O'Shaughnessy: 2595 log10(1 + f/700)). Every step is a centred window, the first at the first sample.
    """
    return _levels(_Mono.of(audio), sample_rate)


@dataclass(frozen=True)
class _Mono:
    """The mean of a sound's channels: `read(first, last)` gives these of its `length` samples, float32."""

    length: int
    read: Callable[[int, int], np.ndarray]

    @classmethod
    def of(cls, audio: Tensor) -> _Mono:
        return cls(audio.shape[1], lambda first, last: audio[:, first:last].float().mean(dim=0).numpy(force=True))


def _levels(mono: _Mono, sample_rate: int) -> Tensor:
    """As `log_mel`, PIECE samples at a time, so that a long sound takes no more memory than a short one."""
    size, hop = _window(sample_rate), _hop(mono.length, sample_rate)
    window = torch.hann_window(size)
    steps, at_once = mono.length // hop + 1, max(1, PIECE // hop)
    levels = []
    for step in range(0, steps, at_once):
        first = step * hop - size // 2
        last = (min(step + at_once, steps) - 1) * hop + size // 2
        heard = mono.read(max(0, first), min(last, mono.length))
        # Pad by reflection: a cut to silence would show as a click.
        longer = torch.from_numpy(np.pad(heard, (max(0, -first), max(0, last - mono.length)), mode="symmetric"))
        spectrum = torch.stft(longer, size, hop, window=window, center=False, return_complex=True)
        amplitude = 2 * spectrum.abs() / window.sum()
        levels.append(10 * torch.log10((_bands(size, sample_rate) @ amplitude**2).clamp_min(1e-12)))
    return torch.cat(levels, dim=1)


def mel(hertz: float) -> float:
    return 2595 * log10(1 + hertz / 700)


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """The letters that Pillow carries, `size` pixels high."""
    found = ImageFont.load_default(size)
    assert isinstance(found, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return found


def clock(seconds: float, step: float) -> str:
    """A time for an axis whose marks are `step` seconds apart: `0.25`, `12`, and from a minute's step on `2:00`."""
    if step >= 30:
        return f"{round(seconds) // 60}:{round(seconds) % 60:02d}"
    return f"{seconds:.{max(0, ceil(-log10(step)))}f}"


def _window(sample_rate: int) -> int:
    return int(2 ** max(5, round(log2(0.064 * sample_rate))))


def _hop(samples: int, sample_rate: int) -> int:
    return max(1, _window(sample_rate) // 8, samples // MAX_STEPS)


@cache
def _bands(size: int, sample_rate: int) -> Tensor:
    """(mel bands, frequencies)"""
    count = min(MELS, size // 5)  # more would lie between the frequencies of so short a window, and be empty
    return torchaudio.functional.melscale_fbanks(size // 2 + 1, 0.0, sample_rate / 2, count, sample_rate).T


def _stretched(decibels: np.ndarray, width: int, height: int, length: float) -> np.ndarray:
    """(bands, steps) → (height, width), the highest band on top; the sound is `length` steps long.

    Step k stands at k and not at k + ½, band k at the mel of its centre; what is outside of the outermost is as these.
    """
    padded = np.pad(decibels, ((1, 1), (0, 1)), mode="edge")[::-1]
    box = (0.5, 0.5, min(length + 0.5, padded.shape[1]), padded.shape[0] - 0.5)
    picture = Image.fromarray(np.ascontiguousarray(padded, dtype=np.float32))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR, box))


def _colour(decibels: np.ndarray, plot: Plot) -> np.ndarray:
    """Decibels → indices into the palette."""
    along = (decibels - plot.quiet_db) / (plot.loud_db - plot.quiet_db)
    return (along.clip(0, 1) * (_COLOURS - 1) + 0.5).astype(np.uint8)


def _grey(mask: Image.Image) -> np.ndarray:
    """Ink 0 … 255 → indices into the palette. The array may be written to."""
    shades = np.arange(256) * (255 - _COLOURS) // 255 + _COLOURS
    return shades.astype(np.uint8)[np.asarray(mask)]


@cache
def _palette() -> np.ndarray:
    greys = 256 - _COLOURS
    ink = np.linspace(0, 1, greys)[:, None]
    return np.concatenate([ramp(_COLOURS), np.round(np.array(PAGE) * (1 - ink) + np.array(INK) * ink).astype(np.uint8)])


def _bar(plot: Plot, em: int) -> tuple[int, int]:
    """Left and right of the scale of colours."""
    return plot.right + em, plot.right + round(1.75 * em)


def _axes(plot: Plot, em: int) -> Image.Image:
    """What is written around the plot: a mask of ink."""
    mask = Image.new("L", (plot.width, plot.height), 0)
    draw, letters = ImageDraw.Draw(mask), font(em)
    thin, dash, gap = max(1, em // 15), round(em / 3), round(em / 2)
    for place, hertz in _marked_hertz(plot, em):
        draw.rectangle((plot.left - dash, place, plot.left - 1, place + thin - 1), fill=FAINT)
        text = f"{hertz:,}".replace(",", " ")
        draw.text((plot.left - gap, place), text, FAINT, letters, anchor="rm")
    marked, step = _marked_seconds(plot, em)
    for place, seconds in marked:
        draw.rectangle((place, plot.bottom, place + thin - 1, plot.bottom + dash - 1), fill=FAINT)
        draw.text((place, plot.bottom + gap), clock(seconds, step), FAINT, letters, anchor="ma")
    right = _bar(plot, em)[1]
    for place, decibels in _marked_decibels(plot, em):
        if decibels < 0:  # the letters have no minus sign, and a hyphen is too short for one
            draw.rectangle((right + gap, place - thin // 2, right + gap + round(0.4 * em), place + thin // 2), FAINT)
        draw.text((right + gap + round(0.55 * em), place), f"{abs(decibels)}", FAINT, letters, anchor="lm")
    above = plot.top - round(0.7 * em)
    draw.text((plot.left - gap, above), "Hz", 255, letters, anchor="rs")
    draw.text((right + gap + round(0.55 * em), above), "dB", 255, letters, anchor="ls")
    name = "minutes" if step >= 30 else "seconds"
    draw.text(((plot.left + plot.right) // 2, plot.height - round(0.55 * em)), name, 255, letters, anchor="ms")
    return mask


def _marked_hertz(plot: Plot, em: int) -> list[tuple[int, int]]:
    """Pixel row and frequency of the marks that find room."""
    marked: list[tuple[int, int]] = []
    for hertz in _TICKS_HZ:
        place = plot.bottom - round((plot.bottom - plot.top) * mel(hertz) / mel(plot.hertz))
        if hertz <= plot.hertz and all(abs(place - other) >= 1.3 * em for other, _ in marked):
            marked.append((place, hertz))
    return marked


def _marked_seconds(plot: Plot, em: int) -> tuple[list[tuple[int, float]], float]:
    """Pixel column and time of the marks, and how far apart they are."""
    across = plot.right - plot.left
    fitting = (step for step in _STEPS_S if step / plot.seconds * across >= 3.2 * em)
    step = next(fitting, plot.seconds)
    count = floor(plot.seconds / step + 1e-9)
    return [(plot.left + round(across * k * step / plot.seconds), k * step) for k in range(count + 1)], step


def _marked_decibels(plot: Plot, em: int) -> list[tuple[int, int]]:
    each = (plot.bottom - plot.top) / (plot.loud_db - plot.quiet_db)
    step = next(step for step in (10, 20, 50) if step * each >= 1.3 * em or step == 50)
    values = range(ceil(plot.quiet_db / step) * step, floor(plot.loud_db) + 1, step)
    return [(plot.top + round((plot.loud_db - value) * each), value) for value in values]
