"""Spectrograms: what is drawn where, and that it can be found again from the outside."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.media import spectrogram as spectrograms
from model.media.palette import ramp
from model.media.spectrogram import Plot, clock, draw_sound, log_mel, mel, spectrogram, write_spectrogram
from tests.clips import Track, make

RATE = 16_000


def sine(hertz: float, seconds: float = 1.6) -> torch.Tensor:
    """(1, samples) at full scale."""
    return torch.sin(2 * torch.pi * hertz * torch.arange(round(seconds * RATE)) / RATE)[None]


def brightness(picture: Image.Image, plot: Plot) -> np.ndarray:
    """Of the plot's pixels, (height, width)."""
    inside = picture.convert("L").crop((plot.left, plot.top, plot.right, plot.bottom))
    return np.asarray(inside).astype(float)


@pytest.mark.parametrize("hertz", [250, 1000, 4000])
def test_a_sine_is_loudest_in_the_band_of_its_frequency(hertz: float) -> None:
    decibels = log_mel(sine(hertz), RATE)

    loudest = int(decibels[:, 20:-20].mean(dim=1).argmax())
    centre = (loudest + 1) / (len(decibels) + 1) * mel(RATE / 2)
    assert 700 * (10 ** (centre / 2595) - 1) == pytest.approx(hertz, rel=0.06)
    assert -6 < float(decibels.max()) < 6  # full scale is 0 dB


def test_a_sound_that_is_cut_out_of_a_longer_one_has_no_click_at_its_ends() -> None:
    decibels = log_mel(sine(1000), RATE)

    loud = decibels.max(dim=0).values
    quiet = decibels[-1]  # the highest band, 3 octaves above the tone, where a click would show
    assert float(loud.max() - loud.min()) < 3
    assert float(quiet.max()) < -60


@pytest.mark.parametrize("second", [0.2, 1.0, 1.5])
def test_a_click_is_drawn_where_it_sounds(second: float) -> None:
    audio = torch.zeros(1, RATE * 2)
    audio[0, round(RATE * second)] = 1

    picture, plot = spectrogram(audio, RATE)

    columns = brightness(picture, plot).mean(axis=0)
    lit = np.flatnonzero(columns > columns.max() / 2)
    assert (lit[0] + lit[-1] + 1) / 2 / len(columns) * plot.seconds == pytest.approx(second, abs=0.005)


@pytest.mark.parametrize("hertz", [300, 1000, 6000])
def test_a_tone_is_drawn_at_its_frequency(hertz: float) -> None:
    picture, plot = spectrogram(sine(hertz), RATE, width=1000, height=400, em=20)

    assert picture.size == (plot.width, plot.height) == (1000, 400)
    shown = brightness(picture, plot)
    row = int(shown.mean(axis=1).argmax())
    height = (len(shown) - row - 0.5) / len(shown) * mel(plot.hertz)
    assert 700 * (10 ** (height / 2595) - 1) == pytest.approx(hertz, rel=0.06)
    assert shown.max() > 230
    assert np.median(shown) < 40


def test_the_loudest_point_is_the_top_of_the_scale() -> None:
    _, plot = spectrogram(0.1 * sine(1000), RATE)

    assert plot.loud_db == pytest.approx(-20, abs=1.5)
    assert plot.loud_db - plot.quiet_db == pytest.approx(70)


def test_silence_is_dark() -> None:
    picture, plot = spectrogram(torch.zeros(1, RATE), RATE)

    assert brightness(picture, plot).max() < 20


@pytest.mark.parametrize(
    ("samples", "rate"), [(1, 8000), (10, RATE), (RATE * 300, RATE), (960_000, 192_000), (500, 100)]
)
def test_any_length_and_rate_of_sound_can_be_drawn(samples: int, rate: int) -> None:
    audio = torch.rand(2, samples, generator=torch.Generator().manual_seed(1)) - 0.5

    picture, plot = spectrogram(audio, rate)

    assert picture.size == (1200, 540)
    assert (plot.seconds, plot.hertz) == (samples / rate, rate / 2)
    assert brightness(picture, plot).max() > 200


def test_a_long_sound_is_drawn_in_pieces_as_it_would_be_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = torch.rand(2, 50_001, generator=torch.Generator().manual_seed(2)) - 0.5
    whole = log_mel(sound, RATE)
    monkeypatch.setattr(spectrograms, "PIECE", 3000)

    torch.testing.assert_close(log_mel(sound, RATE), whole, rtol=0, atol=1e-3)


def test_the_file_says_where_its_plot_is(tmp_path: Path) -> None:
    plot = write_spectrogram(tmp_path / "a.png", sine(1000), RATE)

    with Image.open(tmp_path / "a.png") as picture:
        assert picture.format == "PNG"
        assert Plot.from_json(picture.text["plot"]) == plot
        page = picture.convert("RGB").getpixel((2, 2))
        assert picture.convert("RGB").getpixel((plot.left - 30, plot.bottom + 4)) == page
    assert plot.seconds == 1.6
    assert 0 < plot.left < plot.right < plot.width == 1200
    assert 0 < plot.top < plot.bottom < plot.height == 540


def test_axes_and_scale_are_written_around_the_plot_and_not_into_it() -> None:
    """Different sounds of one length and loudness: all that differs lies in the plot."""
    first, plot = spectrogram(sine(500), RATE)
    second, _ = spectrogram(sine(500).flip(1), RATE)
    third, _ = spectrogram(torch.cat([sine(500, 0.8), torch.zeros(1, RATE * 4 // 5)], 1), RATE)
    outside = np.ones((plot.height, plot.width), bool)
    outside[plot.top : plot.bottom, plot.left : plot.right] = False

    pixels = [np.asarray(picture) for picture in (first, second, third)]
    assert (pixels[0] == pixels[1])[outside].all()
    assert (pixels[0] == pixels[2])[outside].all()
    assert (pixels[0] != pixels[2])[~outside].mean() > 0.03
    for side in (pixels[0][:, : plot.left], pixels[0][plot.bottom :], pixels[0][:, plot.right + 60 :]):
        assert len(np.unique(side)) > 10, "letters have smooth edges"


def test_a_file_is_drawn_as_what_it_holds(tmp_path: Path) -> None:
    track = Track(seconds=2.0, codec="pcm_s16le", format="s16", sample_rate=RATE)
    sound = make(tmp_path / "a.wav", sound=track)
    heard = torch.from_numpy(track.samples().T / 2**15)

    plot = Plot.from_json(draw_sound(sound, tmp_path / "file.png", 1.5))

    assert plot == write_spectrogram(tmp_path / "memory.png", heard[:, : RATE * 3 // 2], RATE)
    assert (tmp_path / "file.png").read_bytes() == (tmp_path / "memory.png").read_bytes()


@pytest.mark.parametrize("text", ["", "[]", '{"left": 1}', json.dumps({"left": "x"})])
def test_what_is_no_plot_is_refused(text: str) -> None:
    with pytest.raises((ValueError, TypeError, AttributeError)):
        Plot.from_json(text)


def test_the_ramp_grows_lighter_with_every_step() -> None:
    grey = ramp(224).astype(float) @ (0.2126, 0.7152, 0.0722)

    assert (np.diff(grey) > -1).all()
    assert (np.diff(grey[::8]) > 0).all()
    assert grey[0] < 20
    assert grey[-1] > 235


@pytest.mark.parametrize(
    ("seconds", "step", "text"),
    [(0.2, 0.2, "0.2"), (1.0, 0.25, "1.0"), (12, 2, "12"), (150, 30, "2:30"), (60, 60, "1:00")],
)
def test_times_are_written_as_finely_as_they_are_apart(seconds: float, step: float, text: str) -> None:
    assert clock(seconds, step) == text
