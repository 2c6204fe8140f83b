"""Contact sheets and spectrograms: what is drawn where."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from model.media import MediaError
from model.pictures import contact_sheet, log_mel, spectrogram
from tests.clips import Film, Track, make, read_number

RATE = 16_000


def sine(hertz: float, seconds: float = 1.6) -> torch.Tensor:
    """(1, samples) at full scale."""
    return torch.sin(2 * torch.pi * hertz * torch.arange(round(seconds * RATE)) / RATE)[None]


@pytest.mark.parametrize("hertz", [250, 1000, 4000])
def test_a_sine_is_loudest_in_the_band_of_its_frequency(hertz: float) -> None:
    decibels = log_mel(sine(hertz), RATE)

    loudest = int(decibels[:, 20:-20].mean(dim=1).argmax())
    mel = (loudest + 1) / (len(decibels) + 1) * 2595 * np.log10(1 + RATE / 2 / 700)  # a band's centre
    assert 700 * (10 ** (mel / 2595) - 1) == pytest.approx(hertz, rel=0.06)
    assert -6 < float(decibels.max()) < 6  # full scale is 0 dB


def test_a_click_is_where_it_sounds() -> None:
    audio = torch.zeros(1, RATE * 2)
    audio[0, RATE * 3 // 2] = 1

    decibels = log_mel(audio, RATE)

    assert int(decibels.sum(dim=0).argmax()) / decibels.shape[1] == pytest.approx(0.75, abs=0.01)


def test_the_spectrogram_has_its_size_and_shows_the_tone() -> None:
    picture = spectrogram(sine(1000), RATE, width=1000, height=300)

    assert picture.size == (1000, 300)
    brightness = np.asarray(picture.convert("L")).astype(float)[20:240, 100:960]
    row = 20 + int(brightness.mean(axis=1).argmax())
    top, bottom = 18, 300 - 56
    mel = (bottom - row) / (bottom - top) * 2595 * np.log10(1 + RATE / 2 / 700)
    assert 700 * (10 ** (mel / 2595) - 1) == pytest.approx(1000, rel=0.1)
    assert brightness.max() > 200
    assert np.median(brightness) < 60


def test_silence_is_dark() -> None:
    inside = np.asarray(spectrogram(torch.zeros(1, RATE), RATE).convert("L"))[20:300, 100:1100]

    assert inside.max() < 10


def test_any_length_of_sound_can_be_drawn() -> None:
    assert spectrogram(torch.zeros(2, 10), RATE).size == (1200, 400)
    assert log_mel(torch.zeros(1, RATE * 300), RATE).shape[1] <= 1300


def test_the_sheet_shows_16_frames_over_the_length_in_order(tmp_path: Path) -> None:
    path = make(tmp_path / "clip.mp4", Film(frames=64, fps=Fraction(20), width=64, height=64), Track(seconds=3.2))

    sheet = contact_sheet(path, width=1600)

    assert sheet.width == 1600
    cell, gap, margin, label = (1600 - 48 - 7 * 6) / 8, 6, 24, 24
    seen = []
    for index in range(16):
        row, column = divmod(index, 8)
        left, top = margin + column * (cell + gap), margin + row * (cell + label)
        inside = sheet.crop((round(left), round(top + 2), round(left + cell), round(top + cell - 2)))
        seen.append(read_number(np.asarray(inside)))
    assert seen == [4 * k + 2 for k in range(16)]


def test_the_sheet_has_a_spectrogram_only_if_there_is_sound(tmp_path: Path) -> None:
    silent = contact_sheet(make(tmp_path / "silent.mp4", Film(frames=32)))
    sounding = contact_sheet(make(tmp_path / "sounding.mp4", Film(frames=32), Track(seconds=1)))

    assert sounding.height - silent.height == 360
    spectrum = np.asarray(sounding.convert("L"))[silent.height : silent.height + 250, 100:1500]
    assert spectrum.max() > 200


def test_sound_alone_has_no_sheet(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no video track"):
        contact_sheet(make(tmp_path / "sound.m4a", sound=Track(seconds=0.5)))
